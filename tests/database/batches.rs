//! `claim … commit`: one transaction for the whole batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, EntityTrait, Order,
    PaginatorTrait, QueryFilter, Set, Statement, TransactionTrait,
};
use service_core::__private::database::{ServiceDb, WallClock};
use service_core::database::{self, Transaction};
use service_core::{Error, Outcome, Result};
use tokio::sync::Notify;

use crate::Bench;
use crate::tables::{create, effect, effects, job, jobs, more_jobs, plain, statuses, ticket, tried};

/// Processes a batch as a service does: every row has one effect.
async fn work(service_db: &ServiceDb, n: u64) -> Result<Outcome> {
    work_with(service_db, n, None).await
}

/// Notifies `hangs` when a row hangs.
async fn work_with(service_db: &ServiceDb, n: u64, hangs: Option<&Notify>) -> Result<Outcome> {
    let mut batch = service_db.claim::<job::Entity>(n).await?;
    while let Some(item) = batch.next().await? {
        let done = match hangs {
            Some(hangs) if item.model().payload == "hang" => {
                effect(item.tx(), item.model().id).await?;
                hangs.notify_one();
                std::future::pending().await
            }
            _ => process(item.model(), item.tx()).await,
        };
        item.settle(done).await?;
    }
    batch.commit().await
}

/// Fails as the payload says, after its effect was written.
async fn process(job: &job::Model, tx: &Transaction) -> Result<()> {
    effect(tx, job.id).await?;
    match job.payload.as_str() {
        "bad" => Err(Error::msg("a bad payload")),
        "fatal" => Err(Error::fatal("hopeless")),
        "later" => Err(Error::retry_after(Duration::from_secs(7), "come back")),
        "panic" => panic!("a payload that panics"),
        "break" => {
            tx.execute_unprepared("INSERT INTO nowhere VALUES (1)").await?;
            Ok(())
        }
        "hide" => {
            let _ = tx.execute_unprepared("INSERT INTO nowhere VALUES (1)").await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn service_db(bench: &Bench) -> ServiceDb {
    ServiceDb::new(bench.db.clone(), "worker")
}

/// A clock that a test sets.
fn hand_clock() -> (WallClock, Arc<AtomicI64>) {
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let shown = Arc::clone(&seconds);
    let clock = WallClock::new(move || DateTime::<Utc>::from_timestamp(shown.load(Ordering::SeqCst), 0).unwrap());
    (clock, seconds)
}

async fn set_payload(bench: &Bench, id: i64, payload: &str) {
    let row = job::ActiveModel { id: Set(id), payload: Set(payload.into()), ..Default::default() };
    job::Entity::update(row).exec(&bench.db).await.unwrap();
}

/// Waits until a dropped transaction is rolled back: that happens when its connection returns to the pool.
async fn settled(service_db: &ServiceDb, why: &str) {
    service_db.settle(Some(why)).await.unwrap();
}

pub(crate) async fn rows_and_effects_commit_together(bench: Bench) {
    jobs(&bench.db, 25).await;
    let service_db = service_db(&bench);
    let first = work(&service_db, 10).await.unwrap();
    assert_eq!(first, Outcome::processed(10).again());
    assert_eq!(effects(&bench.db).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(
        work(&service_db, 15).await.unwrap(),
        Outcome::processed(15),
        "exactly the remaining rows: nothing more"
    );
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::idle());
    assert_eq!(effects(&bench.db).await, (1..=25).collect::<Vec<_>>());
    assert!(statuses(&bench.db).await.iter().all(|status| status == "completed"));
    let row = crate::tables::job(&bench.db, 3).await;
    assert_eq!((row.attempts, row.error_message), (1, None));
}

pub(crate) async fn a_failed_item_loses_only_its_own_writes(bench: Bench) {
    jobs(&bench.db, 4).await;
    set_payload(&bench, 2, "bad").await;
    let (clock, time) = hand_clock();
    let service_db = service_db(&bench).with_clock(clock.clone());
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(3).failed(1));
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
    let row = crate::tables::job(&bench.db, 2).await;
    assert_eq!(
        (row.status.as_str(), row.attempts, row.error_message.as_deref()),
        ("pending", 1, Some("a bad payload"))
    );
    assert_eq!(row.due, Some(clock.now() + Duration::from_secs(10)), "later, after the default wait");
    assert_eq!(row.updated_at, clock.now());

    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::idle(), "not before its time");
    time.fetch_add(10, Ordering::SeqCst);
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(0).failed(1));
    assert_eq!(
        crate::tables::job(&bench.db, 2).await.due,
        Some(clock.now() + Duration::from_secs(20)),
        "twice as long"
    );
    time.fetch_add(20, Ordering::SeqCst);
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(0).failed(1));
    let row = crate::tables::job(&bench.db, 2).await;
    assert_eq!((row.status.as_str(), row.attempts), ("failed", 3), "no attempts are left");
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
}

pub(crate) async fn an_error_decides_whether_and_when_a_row_is_retried(bench: Bench) {
    jobs(&bench.db, 2).await;
    set_payload(&bench, 1, "fatal").await;
    set_payload(&bench, 2, "later").await;
    let (clock, _) = hand_clock();
    let service_db = service_db(&bench).with_clock(clock.clone());
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(0).failed(2));
    let (fatal, later) = (crate::tables::job(&bench.db, 1).await, crate::tables::job(&bench.db, 2).await);
    assert_eq!((fatal.status.as_str(), fatal.attempts), ("failed", 1));
    assert_eq!((later.status.as_str(), later.due), ("pending", Some(clock.now() + Duration::from_secs(7))));
}

pub(crate) async fn a_failing_statement_fails_only_its_item(bench: Bench) {
    jobs(&bench.db, 4).await;
    set_payload(&bench, 2, "break").await;
    let outcome = work(&service_db(&bench), 10).await.unwrap();
    assert_eq!(outcome, Outcome::processed(3).failed(1));
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
    let message = crate::tables::job(&bench.db, 2).await.error_message.unwrap();
    assert!(message.contains("nowhere"), "{message}");
}

/// PostgreSQL refuses every statement after a failed one, so an item cannot succeed there by ignoring the error.
pub(crate) async fn an_ignored_error_fails_only_its_item(bench: Bench) {
    jobs(&bench.db, 4).await;
    set_payload(&bench, 2, "hide").await;
    let outcome = work(&service_db(&bench), 10).await.unwrap();
    let row = crate::tables::job(&bench.db, 2).await;
    if bench.is_postgres() {
        assert_eq!(outcome, Outcome::processed(3).failed(1));
        assert_eq!(effects(&bench.db).await, [1, 3, 4]);
        assert!(row.error_message.unwrap().contains("although a statement had failed"));
    } else {
        assert_eq!(outcome, Outcome::processed(4));
        assert_eq!(effects(&bench.db).await, [1, 2, 3, 4]);
    }
}

pub(crate) async fn a_savepoint_in_an_item_saves_the_item(bench: Bench) {
    jobs(&bench.db, 2).await;
    let mut batch = service_db(&bench).claim::<job::Entity>(10).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        let risky = TransactionTrait::begin(item.tx()).await.unwrap();
        risky.execute_unprepared("INSERT INTO nowhere VALUES (1)").await.unwrap_err();
        risky.rollback().await.unwrap();
        effect(item.tx(), item.model().id).await.unwrap();
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(2));
    assert_eq!(effects(&bench.db).await, [1, 2]);
}

pub(crate) async fn an_item_that_is_not_settled_has_failed(bench: Bench) {
    jobs(&bench.db, 3).await;
    let service_db = service_db(&bench);
    let mut batch = service_db.claim::<job::Entity>(10).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        effect(item.tx(), item.model().id).await.unwrap();
        if item.model().id == 1 {
            item.settle(Ok::<_, Error>(())).await.unwrap();
        }
    }
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).failed(2));
    assert_eq!(effects(&bench.db).await, [1]);
    assert_eq!(crate::tables::job(&bench.db, 3).await.error_message.as_deref(), Some("not settled"));
}

pub(crate) async fn a_dropped_batch_is_rolled_back_and_costs_the_current_row_an_attempt(bench: Bench) {
    jobs(&bench.db, 5).await;
    let service_db = service_db(&bench);
    let run = async {
        let mut batch = service_db.claim::<job::Entity>(10).await?;
        while let Some(item) = batch.next().await? {
            effect(item.tx(), item.model().id).await?;
            if item.model().id == 3 {
                return Err(Error::msg("by `?`"));
            }
            item.settle(Ok::<_, Error>(())).await?;
        }
        batch.commit().await
    };
    run.await.unwrap_err();
    settled(&service_db, "by `?`").await;
    assert_eq!(effects(&bench.db).await, Vec::<i64>::new());
    let charged = crate::tables::job(&bench.db, 3).await;
    assert_eq!(
        (charged.status.as_str(), charged.attempts, charged.error_message.as_deref()),
        ("pending", 1, Some("by `?`"))
    );
    assert!(charged.due.is_some());
    assert_eq!(crate::tables::job(&bench.db, 2).await.attempts, 0, "the others lose no attempt");
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(4), "and continue in the next run");
}

pub(crate) async fn a_panic_and_a_timeout_cost_the_current_row_an_attempt(bench: Bench) {
    jobs(&bench.db, 3).await;
    set_payload(&bench, 1, "panic").await;
    set_payload(&bench, 2, "hang").await;
    let service_db = service_db(&bench);
    let panicking = tokio::spawn({
        let service_db = service_db.clone();
        async move { work(&service_db, 10).await.map(drop) }
    });
    panicking.await.unwrap_err();
    settled(&service_db, "panicked: a payload that panics").await;
    let hangs = Notify::new();
    tokio::select! {
        run = work_with(&service_db, 10, Some(&hangs)) => panic!("it ends: {run:?}"),
        () = hangs.notified() => {}
    }
    // The settlement was not applied; the next claim applies it.
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(1));
    assert_eq!(effects(&bench.db).await, [3]);
    let (panicked, hung) = (crate::tables::job(&bench.db, 1).await, crate::tables::job(&bench.db, 2).await);
    assert_eq!((panicked.attempts, panicked.error_message.as_deref()), (1, Some("panicked: a payload that panics")));
    assert_eq!((hung.attempts, hung.error_message.as_deref()), (1, Some("not settled")));
}

/// The worst row panics every time and comes first. It loses only its own attempts.
pub(crate) async fn a_row_that_always_panics_does_not_block_the_table(bench: Bench) {
    create(&bench.db, plain::Entity).await;
    let row = |day| plain::ActiveModel { station: Set("a".into()), day: Set(day), state: Set(plain::Status::Pending) };
    plain::Entity::insert_many((0..20).map(row)).exec_without_returning(&bench.db).await.unwrap();
    let service_db = service_db(&bench);
    let mut runs = 0;
    loop {
        runs += 1;
        let run = async {
            let mut batch = service_db.claim::<plain::Entity>(7).await?;
            while let Some(item) = batch.next().await? {
                if item.model().day % 5 == 0 {
                    return Err(Error::msg("poison"));
                }
                item.settle(Ok::<_, Error>(())).await?;
            }
            batch.commit().await
        };
        if run.await.is_ok_and(|outcome| outcome == Outcome::idle()) {
            break;
        }
        settled(&service_db, "poison").await;
        assert!(runs < 20, "the rows that panic block the table");
    }
    let rows = plain::Entity::find().all(&bench.db).await.unwrap();
    for row in rows {
        let expected = if row.day % 5 == 0 { plain::Status::Failed } else { plain::Status::Completed };
        assert_eq!(row.state, expected, "day {}", row.day);
    }
}

pub(crate) async fn composite_and_uuid_keys_and_enum_statuses_work(bench: Bench) {
    create(&bench.db, plain::Entity).await;
    create(&bench.db, ticket::Entity).await;
    let row = |(station, day): (&str, i32)| plain::ActiveModel {
        station: Set(station.into()),
        day: Set(day),
        state: Set(plain::Status::Pending),
    };
    let rows = [("b", 1), ("a", 2), ("a", 1)];
    plain::Entity::insert_many(rows.map(row)).exec_without_returning(&bench.db).await.unwrap();
    let tickets = (0..3).map(|n| ticket::ActiveModel {
        id: Set(sea_orm::prelude::Uuid::from_u128(n)),
        status: Set("pending".into()),
        error: Set(String::new()),
    });
    ticket::Entity::insert_many(tickets).exec_without_returning(&bench.db).await.unwrap();

    let service_db = service_db(&bench);
    let mut seen = Vec::new();
    let mut batch = service_db.claim::<plain::Entity>(2).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        seen.push((item.model().station.clone(), item.model().day));
        let result = if seen.len() == 1 { Ok(()) } else { Err("no") };
        item.settle(result).await.unwrap();
    }
    assert_eq!(seen, [("a".to_owned(), 1), ("a".to_owned(), 2)], "in the order of the key");
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).failed(1).again());
    let failed = plain::Entity::find_by_id(("a".to_owned(), 2)).one(&bench.db).await.unwrap().unwrap();
    assert_eq!(failed.state, plain::Status::Failed, "one attempt, because the table has no column for attempts");

    let mut batch = service_db.claim::<ticket::Entity>(10).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        let id = item.model().id.as_u128();
        item.settle(if id == 1 { Err("x".repeat(100)) } else { Ok(()) }).await.unwrap();
    }
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(2).failed(1));
    let failed =
        ticket::Entity::find().filter(ticket::Column::Status.eq("failed")).one(&bench.db).await.unwrap().unwrap();
    assert_eq!(failed.error.chars().count(), 40, "shortened to the length of the column");
}

pub(crate) async fn filter_and_order_by_select_and_sort_the_rows(bench: Bench) {
    jobs(&bench.db, 10).await;
    let service_db = service_db(&bench);
    let mut batch = service_db
        .claim::<job::Entity>(3)
        .filter(job::Column::Id.gt(2))
        .filter(job::Column::Payload.ne("job 9"))
        .order_by(job::Column::Id, Order::Desc)
        .await
        .unwrap();
    let mut ids = Vec::new();
    while let Some(item) = batch.next().await.unwrap() {
        ids.push(item.model().id);
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    assert_eq!(ids, [10, 8, 7]);
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(3).again());
}

pub(crate) async fn the_oldest_rows_come_first(bench: Bench) {
    jobs(&bench.db, 5).await;
    let now = WallClock::new(Utc::now).now();
    for (id, ago) in [(1, 10), (2, 30), (3, 20), (4, -3600)] {
        let due = Set(Some(now - chrono::Duration::seconds(ago)));
        job::Entity::update(job::ActiveModel { id: Set(id), due, ..Default::default() }).exec(&bench.db).await.unwrap();
    }
    for size in [1, 2, 3, 10] {
        bench.db.execute_unprepared("UPDATE job SET status = 'pending'").await.unwrap();
        let (service_db, mut ids, mut more) = (service_db(&bench), Vec::new(), true);
        while more {
            let mut batch = service_db.claim::<job::Entity>(size).await.unwrap();
            while let Some(item) = batch.next().await.unwrap() {
                ids.push(item.model().id);
                item.settle(Ok::<_, Error>(())).await.unwrap();
            }
            more = batch.commit().await.unwrap().has_more();
        }
        assert_eq!(ids, [5, 2, 3, 1], "rows without a time first, then the oldest; a row in the future is not claimed");
    }
}

/// A batch locks one row more than it lends, with and without times.
pub(crate) async fn rows_that_a_batch_does_not_lend_stay_free_for_others(bench: Bench) {
    if !bench.is_postgres() {
        // On SQLite a batch locks the whole database.
        return;
    }
    jobs(&bench.db, 13).await;
    bench.db.execute_unprepared("UPDATE job SET due = now() - interval '1 day' WHERE id > 3").await.unwrap();
    let (first, second) = (service_db(&bench), service_db(&bench));
    let batch = first.claim::<job::Entity>(5).await.unwrap();
    let other = second.claim::<job::Entity>(100).await.unwrap();
    assert_eq!((batch.remaining(), other.remaining()), (5, 13 - 6));
    let third = second.claim::<job::Entity>(100).await.unwrap();
    assert_eq!(third.remaining(), 0);
}

/// A million retries that are due tomorrow must not cost anything today. (A unit test of the crate covers SQLite.)
/// A pool of one connection, whose statistics are read later.
pub(crate) async fn one_connection(bench: &Bench) -> DatabaseConnection {
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(1);
    Database::connect(options).await.unwrap()
}

/// How often PostgreSQL has scanned an index and how many entries it has read there; the same of the whole table.
pub(crate) async fn reads(db: &DatabaseConnection, index: &str) -> [i64; 4] {
    let _ = db.execute_unprepared("SELECT pg_stat_force_next_flush()").await;
    let sql = format!(
        "SELECT i.idx_scan, i.idx_tup_read, seq_scan, seq_tup_read FROM pg_stat_user_tables \
         JOIN pg_stat_user_indexes i USING (relid) WHERE indexrelname = '{index}'"
    );
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap().unwrap();
    ["idx_scan", "idx_tup_read", "seq_scan", "seq_tup_read"].map(|name| row.try_get::<i64>("", name).unwrap())
}

pub(crate) async fn an_idle_poll_does_not_read_rows_that_are_not_due(bench: Bench) {
    if !bench.is_postgres() {
        return;
    }
    jobs(&bench.db, 6000).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    // From the times of completed rows the server concludes that many rows are due.
    for sql in [
        "UPDATE job SET due = now() - interval '1 day', status = 'completed' WHERE id <= 3000",
        "UPDATE job SET due = now() + interval '1 day' WHERE id > 3000",
        "VACUUM ANALYZE job",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let db = one_connection(&bench).await;
    let service_db = ServiceDb::new(db.clone(), "worker");
    let read = async || {
        let [scans, rows, whole, _] = reads(&db, "job_claim_idx").await;
        [scans, rows, whole]
    };
    // The first claim also checks for unknown statuses.
    assert_eq!(work(&service_db, 100).await.unwrap(), Outcome::idle());
    let before = read().await;
    // From the sixth execution on the server may use a generic plan.
    for _ in 0..10 {
        assert_eq!(work(&service_db, 100).await.unwrap(), Outcome::idle());
    }
    let [scans, rows, whole] = read().await;
    assert!(scans >= before[0] + 10, "{before:?} {scans}");
    assert_eq!((rows, whole), (before[1], before[2]), "rows read by the index, scans of the whole table");
}

pub(crate) async fn rows_that_cannot_be_read_are_left_out(bench: Bench) {
    jobs(&bench.db, 5).await;
    // A value that is not the text, and one that is not the time, which the model expects.
    let (spoil, restore) = if bench.is_postgres() {
        ("ALTER TABLE job ALTER COLUMN payload DROP NOT NULL", "UPDATE job SET payload = NULL WHERE id IN (2, 3)")
    } else {
        ("SELECT 1", "UPDATE job SET updated_at = 'once upon a time' WHERE id IN (2, 3)")
    };
    bench.db.execute_unprepared(spoil).await.unwrap();
    bench.db.execute_unprepared(restore).await.unwrap();
    bench.db.execute_unprepared("UPDATE job SET status = 'unknown word' WHERE id = 4").await.unwrap();
    assert_eq!(work(&service_db(&bench), 10).await.unwrap(), Outcome::processed(2).failed(2));
    assert_eq!(effects(&bench.db).await, [1, 5]);
    assert_eq!(statuses(&bench.db).await, ["completed", "failed", "failed", "unknown word", "completed"]);
}

/// The number of attempts cannot grow any more. That must not block the table, whether the row fails or succeeds.
pub(crate) async fn a_full_column_of_attempts_fails_only_its_row(bench: Bench) {
    jobs(&bench.db, 4).await;
    bench.db.execute_unprepared("UPDATE job SET attempts = 2147483647 WHERE id < 3").await.unwrap();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    for _ in 0..10 {
        let run = async {
            let mut batch = service_db.claim::<job::Entity>(10).await?;
            while let Some(item) = batch.next().await? {
                let done = if item.model().id == 1 { Err("refused") } else { Ok(()) };
                item.settle(done).await?;
            }
            batch.commit().await
        };
        let run: Result<Outcome> = run.await;
        service_db.settle(run.err().map(|error| error.to_string()).as_deref()).await.unwrap();
    }
    let second = if bench.is_postgres() { "failed" } else { "completed" };
    assert_eq!(statuses(&bench.db).await, ["failed", second, "completed", "completed"]);
}

/// The number of attempts is at the maximum of every integer type.
pub(crate) async fn a_row_with_the_most_attempts_fails(bench: Bench) {
    create(&bench.db, tried::Entity).await;
    let insert = format!("INSERT INTO tried VALUES (1, 'pending', {})", i64::MAX);
    bench.db.execute_unprepared(&insert).await.unwrap();
    let service_db = service_db(&bench);
    let mut batch = service_db.claim::<tried::Entity>(10).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        item.settle(Err::<(), _>("refused")).await.unwrap();
    }
    let _ = batch.commit().await.unwrap();
    let status = Statement::from_string(bench.db.get_database_backend(), "SELECT status FROM tried");
    let row = bench.db.query_one_raw(status).await.unwrap().unwrap();
    assert_eq!(row.try_get::<String>("", "status").unwrap(), "failed");
}

pub(crate) async fn many_workers_get_no_row_twice(bench: Bench) {
    jobs(&bench.db, 400).await;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let service_db = service_db(&bench);
            tokio::spawn(async move { while work(&service_db, 15).await.unwrap() != Outcome::idle() {} })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(effects(&bench.db).await, (1..=400).collect::<Vec<_>>());
    assert_eq!(job::Entity::find().filter(job::Column::Status.eq("completed")).count(&bench.db).await.unwrap(), 400);
}

/// A refused commit does not name a row. When the rows are claimed one by one, the row that caused it is found.
pub(crate) async fn after_a_refused_commit_the_row_that_caused_it_is_found(bench: Bench) {
    jobs(&bench.db, 4).await;
    bench.db.execute_unprepared("CREATE TABLE parent (id BIGINT PRIMARY KEY)").await.unwrap();
    bench
        .db
        .execute_unprepared("CREATE TABLE child (parent BIGINT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
        .await
        .unwrap();
    let service_db = service_db(&bench);
    let (mut runs, mut failures) = (0, 0);
    loop {
        runs += 1;
        let run = async {
            let mut batch = service_db.claim::<job::Entity>(10).await?;
            while let Some(item) = batch.next().await? {
                let id = item.model().id;
                effect(item.tx(), id).await?;
                if id == 2 {
                    item.tx().execute_unprepared("INSERT INTO child VALUES (7)").await?;
                }
                item.settle(Ok::<_, Error>(())).await?;
            }
            batch.commit().await
        };
        match run.await {
            // The rows of a dropped batch are free again when its connection has rolled back.
            Ok(outcome) if outcome == Outcome::idle() => {
                if effects(&bench.db).await.len() == 3 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(_) => {}
            Err(error) => {
                failures += 1;
                settled(&service_db, &format!("{error:#}")).await;
            }
        }
        assert!(runs < 200);
    }
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
    assert_eq!(failures, 1, "the run of the whole batch failed; the row by itself is a failed item, not a failed run");
    let row = crate::tables::job(&bench.db, 2).await;
    assert_eq!(row.attempts, 1);
    let word = if bench.is_postgres() { "child" } else { "FOREIGN KEY" };
    assert!(row.error_message.unwrap().contains(word));
    // On a busy machine, it may be due again by now.
    job::Entity::delete_by_id(2).exec(&bench.db).await.unwrap();
    more_jobs(&bench.db, 10..=30).await;
    assert_eq!(work(&service_db, 50).await.unwrap(), Outcome::processed(21), "and batches have full size again");
}
