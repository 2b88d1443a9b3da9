//! Items of `claim_each(…).for_each(…)` without writes of their own: on PostgreSQL one statement completes several of
//! them, while the next ones are processed already.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{
    ActiveValue::Set, ConnectOptions, ConnectionTrait, Database, DatabaseTransaction, EntityTrait, Statement,
    TransactionTrait,
};
use service_core::__private::database::ServiceDb;
use service_core::prelude::*;
use tokio::sync::{Barrier, Notify, OnceCell};

use crate::Bench;
use crate::away::until;
use crate::each::claims;
use crate::killed::Worker;
use crate::log::Log;
use crate::tables::{create, effect, job, jobs, more_jobs, plain, statuses, ticket};

/// Rows from 1 to `count`, and a service that has completed a row before: its first completion finds the isolation
/// level.
///
/// Items are completed together only where a statement by itself runs at READ COMMITTED.
async fn service_db(bench: &Bench, count: i64) -> ServiceDb {
    if bench.is_postgres() {
        bench.set("default_transaction_isolation", "read committed").await;
    }
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(8);
    let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "sender");
    for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    jobs(&bench.db, 1).await;
    let first = service_db.claim_each::<job::Entity>(1).for_each(async |_| ()).await;
    assert_eq!(first.unwrap(), Outcome::processed(1));
    bench.db.execute_unprepared("DELETE FROM job").await.unwrap();
    more_jobs(&bench.db, 1..=count).await;
    service_db
}

/// While it is held, no claim can be released, so that completions wait. Set after the claim, by the items.
#[derive(Default)]
struct Held(OnceCell<DatabaseTransaction>);

impl Held {
    /// Waits until it is held.
    async fn hold(&self, bench: &Bench) {
        let lock = async || {
            let tx = bench.db.begin().await.unwrap();
            tx.execute_unprepared("LOCK TABLE service_claim IN SHARE MODE").await.unwrap();
            tx
        };
        self.0.get_or_init(lock).await;
    }

    async fn release(&self) {
        self.0.get().unwrap().execute_unprepared("COMMIT").await.unwrap();
    }
}

async fn attempts(bench: &Bench) -> Vec<i32> {
    let rows = job::Entity::find().all(&bench.db).await.unwrap();
    let mut rows: Vec<(i64, i32)> = rows.into_iter().map(|row| (row.id, row.attempts)).collect();
    rows.sort_unstable();
    rows.into_iter().map(|(_, attempts)| attempts).collect()
}

async fn count(db: &impl ConnectionTrait, what: &str) -> i64 {
    let select = format!("SELECT count(*) AS n FROM {what}");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), select)).await;
    row.unwrap().unwrap().try_get("", "n").unwrap()
}

pub(crate) async fn until_there_are(bench: &Bench, wanted: i64, what: &str) {
    let begun = Instant::now();
    while count(&bench.db, what).await != wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {wanted} {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn in_time<T>(run: impl Future<Output = T>) -> T {
    // Longer than all that such a run waits for.
    tokio::time::timeout(Duration::from_secs(300), run).await.expect("it ends")
}

/// The next items begin while completions are in flight, but at most as many items as run at the same time wait for
/// theirs.
#[tokio::test]
async fn on_postgres_the_next_items_begin_before_completions_are_answered() {
    let Some(bench) = Bench::postgres().await else { return };
    for concurrency in [1, 3] {
        let service_db = service_db(&bench, 20).await;
        let (held, started) = (Held::default(), AtomicUsize::new(0));
        let run = service_db.claim_each::<job::Entity>(30).concurrency(concurrency).for_each(async |_| {
            held.hold(&bench).await;
            started.fetch_add(1, Ordering::SeqCst);
        });
        let watch = async {
            until("they begin", || started.load(Ordering::SeqCst) == 2 * concurrency).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(started.load(Ordering::SeqCst), 2 * concurrency, "no more wait for their completion");
            assert_eq!(count(&bench.db, "job WHERE status = 'pending'").await, 20);
            held.release().await;
        };
        let (outcome, ()) = in_time(async { tokio::join!(run, watch) }).await;
        assert_eq!(outcome.unwrap(), Outcome::processed(20));
        assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1; 20], 0));
        assert_eq!(count(&bench.db, "job WHERE status = 'completed'").await, 20);
    }
}

/// The first of them waits for no other.
#[tokio::test]
async fn on_postgres_items_that_end_together_are_completed_together() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 6).await;
    let barrier = Barrier::new(6);
    let (log, _listening) = Log::listen_to("sqlx::query");
    let run = service_db.claim_each::<job::Entity>(10).concurrency(6).for_each(async |_| {
        barrier.wait().await;
    });
    assert_eq!(in_time(run).await.unwrap(), Outcome::processed(6));
    let sent = log.lines().into_iter().filter(|line| line.contains("service_rows")).count();
    assert!((1..=2).contains(&sent), "{sent} statements for 6 rows");
}

/// Rows that are not the owner's any more are left alone, and the others of their group complete.
pub(crate) async fn lost_changed_and_deleted_rows_are_skipped_alone(bench: Bench) {
    let service_db = service_db(&bench, 5).await;
    let barrier = Barrier::new(5);
    let run = service_db.claim_each::<job::Entity>(10).concurrency(5).for_each(async |item| {
        if item.model().id == 1 {
            for sql in [
                "DELETE FROM service_claim WHERE row_key = '2'",
                "UPDATE job SET status = 'cancelled' WHERE id = 3",
                "DELETE FROM job WHERE id = 4",
            ] {
                bench.db.execute_unprepared(sql).await.unwrap();
            }
        }
        barrier.wait().await;
    });
    assert_eq!(in_time(run).await.unwrap(), Outcome::processed(2));
    assert_eq!(statuses(&bench.db).await, ["completed", "pending", "cancelled", "completed"]);
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1, 0, 0, 1], 0));
}

/// A row that another transaction has locked delays no other.
#[tokio::test]
async fn on_postgres_a_locked_row_delays_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 12).await;
    let (locked, barrier) = (OnceCell::new(), Barrier::new(3));
    let run = service_db.claim_each::<job::Entity>(20).concurrency(3).for_each(async |item| {
        let lock = async || {
            let tx = bench.db.begin().await.unwrap();
            tx.execute_unprepared("SELECT 1 FROM job WHERE id = 2 FOR UPDATE").await.unwrap();
            tx
        };
        locked.get_or_init(lock).await;
        if item.model().id <= 3 {
            barrier.wait().await;
        }
    });
    let watch = async {
        until_there_are(&bench, 11, "job WHERE status = 'completed'").await;
        locked.get().unwrap().execute_unprepared("COMMIT").await.unwrap();
    };
    let (outcome, ()) = in_time(async { tokio::join!(run, watch) }).await;
    assert_eq!(outcome.unwrap(), Outcome::processed(12));
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1; 12], 0));
}

/// A row whose completion is refused fails alone.
pub(crate) async fn a_refused_completion_costs_the_others_nothing(bench: Bench) {
    let service_db = service_db(&bench, 6).await;
    let mut statements = vec![
        "UPDATE job SET payload = 'the same' WHERE id IN (2, 4)",
        "CREATE UNIQUE INDEX once ON job (payload) WHERE status = 'completed'",
    ];
    if bench.is_postgres() {
        statements.push("ALTER TABLE job ADD CONSTRAINT never CHECK (id <> 5 OR status <> 'completed')");
    }
    for sql in statements {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let barrier = Barrier::new(6);
    let run = service_db.claim_each::<job::Entity>(10).concurrency(6).for_each(async |_| {
        barrier.wait().await;
    });
    let outcome = in_time(run).await.unwrap();
    let (refused, expected) = match bench.is_postgres() {
        true => ("never", Outcome::processed(4).failed(2)),
        false => ("", Outcome::processed(5).failed(1)),
    };
    assert_eq!(outcome, expected);
    let rows: Vec<job::Model> = job::Entity::find().all(&bench.db).await.unwrap();
    for row in &rows {
        assert_eq!(row.attempts, 1, "{row:?}");
    }
    let failed: Vec<&job::Model> = rows.iter().filter(|row| row.status == "pending").collect();
    assert_eq!(failed.iter().filter(|row| row.payload == "the same").count(), 1, "{failed:?}");
    for row in failed {
        let why = row.error_message.as_deref().unwrap();
        assert!(if row.id == 5 { why.contains(refused) } else { !why.is_empty() }, "{why}");
    }
    assert_eq!(claims(&bench).await, 0);
}

/// A table that completes no row at all is the cause, and not its rows.
#[tokio::test]
async fn on_postgres_a_table_that_completes_no_row_fails_the_run_and_no_row() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 4).await;
    let never = "ALTER TABLE job ADD CONSTRAINT never CHECK (status <> 'completed')";
    bench.db.execute_unprepared(never).await.unwrap();
    let barrier = Barrier::new(4);
    let run = service_db.claim_each::<job::Entity>(10).concurrency(4).for_each(async |_| {
        barrier.wait().await;
    });
    let error = in_time(run).await.unwrap_err().to_string();
    assert!(error.contains("refuses to complete rows"), "{error}");
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![0; 4], 0));
}

/// A trigger that is created later, and keeps a row pending without an error.
#[tokio::test]
async fn on_postgres_a_row_that_a_new_trigger_keeps_ends_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 6).await;
    let created = OnceCell::new();
    // The claim has not seen it.
    let create = async || {
        for sql in [
            "CREATE FUNCTION keep() RETURNS trigger AS $$ BEGIN IF OLD.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$ LANGUAGE plpgsql",
            "CREATE TRIGGER keep BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()",
        ] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
    };
    let work = async || {
        let run = service_db.claim_each::<job::Entity>(10).concurrency(2);
        in_time(run.for_each(async |_| _ = created.get_or_init(create).await)).await
    };
    assert_eq!(work().await.unwrap(), Outcome::processed(5), "its claim is not lost");
    // The table is inspected again.
    for _ in 0..2 {
        let _ = work().await.unwrap();
    }
    let kept = ["completed", "pending", "completed", "completed", "completed", "completed"];
    assert_eq!((statuses(&bench.db).await.as_slice(), claims(&bench).await), (&kept.map(str::to_owned)[..], 0));
}

/// A dropped future: rows whose code has succeeded are completed, whether their completion is in flight or waits.
#[tokio::test]
async fn on_postgres_a_dropped_future_completes_the_items_whose_code_has_succeeded() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 6).await;
    let (held, started) = (Held::default(), AtomicUsize::new(0));
    {
        let run = service_db.claim_each::<job::Entity>(10).concurrency(2).for_each(async |item| {
            held.hold(&bench).await;
            started.fetch_add(1, Ordering::SeqCst);
            match item.model().id {
                1 => {}
                // When the completion of the first one is in flight.
                2 => until_there_are(&bench, 1, WAITING_STATEMENTS).await,
                _ => std::future::pending().await,
            }
        });
        let all_begin = until("they begin", || started.load(Ordering::SeqCst) == 4);
        tokio::select! {
            _ = run => panic!("it ends"),
            () = all_begin => {}
        }
    }
    held.release().await;
    service_db.settle(Some("it took too long")).await.unwrap();
    let expected = ["completed", "completed", "pending", "pending", "pending", "pending"];
    assert_eq!(statuses(&bench.db).await, expected);
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1, 1, 1, 1, 0, 0], 0));
}

/// Statements that wait for a lock.
const WAITING_STATEMENTS: &str =
    "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%service_rows%'";

/// The connection breaks under a completion: no row is charged, and the other items in flight end as they would.
#[tokio::test]
async fn on_postgres_a_connection_that_breaks_under_a_completion_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 6).await;
    let (held, is_sent, go_on, started) = (Held::default(), Notify::new(), Notify::new(), AtomicUsize::new(0));
    let run = service_db.claim_each::<job::Entity>(10).concurrency(2).for_each(async |item| {
        held.hold(&bench).await;
        started.fetch_add(1, Ordering::SeqCst);
        match item.model().id {
            1 => {}
            2 => is_sent.notified().await,
            _ => go_on.notified().await,
        }
    });
    let watch = async {
        // The completion of the first row is in flight, and that of the second one waits for it.
        until_there_are(&bench, 1, WAITING_STATEMENTS).await;
        is_sent.notify_one();
        until("they begin", || started.load(Ordering::SeqCst) == 4).await;
        let broken = format!("SELECT min(pid) AS n, pg_terminate_backend(min(pid)) FROM {WAITING_STATEMENTS}");
        let broken = Statement::from_string(bench.db.get_database_backend(), broken);
        let broken = bench.db.query_one_raw(broken).await.unwrap().unwrap();
        let broken: i32 = broken.try_get("", "n").unwrap();
        until_there_are(&bench, 1, &format!("{WAITING_STATEMENTS} AND pid <> {broken}")).await;
        held.release().await;
        for _ in 0..2 {
            go_on.notify_one();
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = in_time(async { tokio::join!(run, watch) }).await;
    outcome.unwrap_err();
    service_db.settle(Some("the connection broke")).await.unwrap();
    let completed = statuses(&bench.db).await.iter().filter(|status| *status == "completed").count();
    assert_eq!((completed, attempts(&bench).await.iter().sum::<i32>(), claims(&bench).await), (3, 3, 0));
    assert_eq!(attempts(&bench).await[2..], [1, 1, 0, 0]);
}

/// The same under the last completion in flight, while the code of no item runs: what waits for it is sent all the
/// same.
#[tokio::test]
async fn on_postgres_items_that_wait_behind_a_broken_completion_are_completed() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 2).await;
    let (held, ended) = (Held::default(), AtomicUsize::new(0));
    let run = service_db.claim_each::<job::Entity>(10).for_each(async |_| {
        held.hold(&bench).await;
        ended.fetch_add(1, Ordering::SeqCst);
    });
    let watch = async {
        until("the code of both has ended", || ended.load(Ordering::SeqCst) == 2).await;
        until_there_are(&bench, 1, WAITING_STATEMENTS).await;
        let broken = format!("SELECT min(pid) AS n, pg_terminate_backend(min(pid)) FROM {WAITING_STATEMENTS}");
        let broken = Statement::from_string(bench.db.get_database_backend(), broken);
        let broken = bench.db.query_one_raw(broken).await.unwrap().unwrap();
        let broken: i32 = broken.try_get("", "n").unwrap();
        until_there_are(&bench, 1, &format!("{WAITING_STATEMENTS} AND pid <> {broken}")).await;
        held.release().await;
    };
    let (outcome, ()) = in_time(async { tokio::join!(run, watch) }).await;
    outcome.unwrap_err();
    service_db.settle(Some("the connection broke")).await.unwrap();
    assert_eq!((statuses(&bench.db).await[1].as_str(), claims(&bench).await), ("completed", 0));
}

/// A suspect row begins when no other row is in flight, and none waits for its completion.
#[tokio::test]
async fn on_postgres_a_suspect_row_begins_when_all_others_are_completed() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 5).await;
    for id in [4, 5] {
        let suspect = format!(
            "INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at, seq, crashes) \
             VALUES ('job', '{id}', 'sender', '', {}, 0, 1)",
            chrono::Utc::now().timestamp_millis()
        );
        bench.db.execute_unprepared(&suspect).await.unwrap();
    }
    let (held, started) = (Held::default(), AtomicUsize::new(0));
    let run = service_db.claim_each::<job::Entity>(10).concurrency(3).for_each(async |item| {
        held.hold(&bench).await;
        started.fetch_add(1, Ordering::SeqCst);
        if item.model().id > 3 {
            assert_eq!(count(&bench.db, "job WHERE status = 'completed'").await, item.model().id - 1);
        }
    });
    let watch = async {
        until("the first ones begin", || started.load(Ordering::SeqCst) == 3).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(started.load(Ordering::SeqCst), 3, "no suspect row begins");
        held.release().await;
    };
    let (outcome, ()) = in_time(async { tokio::join!(run, watch) }).await;
    assert_eq!(outcome.unwrap(), Outcome::processed(5));
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1; 5], 0));
}

/// The process dies while completions are in flight. Their claims come before that of the row that killed it, which is
/// found all the same.
#[tokio::test]
async fn on_postgres_a_row_that_kills_its_process_is_found_behind_completions_in_flight() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 1).await;
    bench.db.execute_unprepared("UPDATE job SET payload = 'first'").await.unwrap();
    bench.set("default_transaction_isolation", "read committed").await;
    let mut worker = Worker::quiet(&bench.url, "ahead");
    until_there_are(&bench, 1, "job WHERE status = 'completed'").await;
    let create = bench.db.begin().await.unwrap();
    more_jobs_in(&create, 11..=16).await;
    create.execute_unprepared("UPDATE job SET payload = 'kill' WHERE id = 14").await.unwrap();
    create.commit().await.unwrap();
    until_there_are(&bench, 6, "service_claim").await;
    let held = Held::default();
    held.hold(&bench).await;
    // Now the first two rows end.
    effect(&bench.db, 0).await.unwrap();
    let begun = Instant::now();
    while !worker.is_dead() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "the fourth row does not begin");
    }
    held.release().await;
    let expired = "service_claim WHERE expires_at < extract(epoch FROM clock_timestamp()) * 1000";
    let left = count(&bench.db, "service_claim").await;
    until_there_are(&bench, left, expired).await;
    let next = ServiceDb::new(bench.db.clone(), "next");
    let batch = next.claim_each::<job::Entity>(10).await.unwrap();
    let suspects = "SELECT row_key FROM service_claim WHERE crashes > 0 ORDER BY row_key";
    let suspects = Statement::from_string(bench.db.get_database_backend(), suspects);
    let suspects = bench.db.query_all_raw(suspects).await.unwrap();
    let suspects: Vec<String> = suspects.iter().map(|row| row.try_get("", "row_key").unwrap()).collect();
    assert!(suspects.iter().any(|key| key == "14") && suspects.len() <= 4, "{suspects:?}");
    drop(batch);
    next.settle(None).await.unwrap();
}

async fn more_jobs_in(tx: &DatabaseTransaction, ids: std::ops::RangeInclusive<i64>) {
    let insert = format!(
        "INSERT INTO job (id, payload, status, attempts, updated_at) \
         SELECT n, 'job ' || n, 'pending', 0, now() FROM generate_series({}, {}) AS n",
        ids.start(),
        ids.end()
    );
    tx.execute_unprepared(&insert).await.unwrap();
}

/// An item that writes through its transaction is completed before the next one begins, which may read its writes.
pub(crate) async fn an_item_with_writes_is_completed_before_the_next_one_begins(bench: Bench) {
    let service_db = service_db(&bench, 5).await;
    let run = service_db.claim_each::<job::Entity>(10).for_each(async |item| {
        let id = item.model().id;
        assert_eq!(count(&bench.db, "job WHERE status = 'completed'").await, id - 1);
        assert_eq!(count(&bench.db, "effect").await, id - 1);
        effect(item.tx(), id).await
    });
    assert_eq!(in_time(run).await.unwrap(), Outcome::processed(5));
}

/// Keys of two columns, texts with any characters, and UUIDs.
#[tokio::test]
async fn on_postgres_keys_of_other_types_are_completed_together_too() {
    let Some(bench) = Bench::postgres().await else { return };
    let service_db = service_db(&bench, 0).await;
    create(&bench.db, plain::Entity).await;
    create(&bench.db, ticket::Entity).await;
    let stations = ["plain", "it's", r#"a"b\c"#, "{1,2}", "", "NULL", "ü 漢"];
    let rows = stations.map(|station| plain::ActiveModel {
        station: Set(station.into()),
        day: Set(-1),
        state: Set(plain::Status::Pending),
    });
    plain::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    let rows = (0..7).map(|n| ticket::ActiveModel {
        id: Set(sea_orm::prelude::Uuid::from_u128(n)),
        status: Set("pending".into()),
        error: Set(String::new()),
    });
    ticket::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    for kind in ["plain", "ticket"] {
        let (held, started) = (Held::default(), AtomicUsize::new(0));
        let watch = async {
            until("the next ones begin", || started.load(Ordering::SeqCst) == 4).await;
            held.release().await;
        };
        let begin = async || {
            held.hold(&bench).await;
            started.fetch_add(1, Ordering::SeqCst);
        };
        let (outcome, completed) = if kind == "plain" {
            let run = service_db.claim_each::<plain::Entity>(10).concurrency(2).for_each(async |_| begin().await);
            (in_time(async { tokio::join!(run, watch) }).await.0, "plain WHERE state = 'completed'")
        } else {
            let run = service_db.claim_each::<ticket::Entity>(10).concurrency(2).for_each(async |_| begin().await);
            (in_time(async { tokio::join!(run, watch) }).await.0, "ticket WHERE status = 'completed'")
        };
        assert_eq!(outcome.unwrap(), Outcome::processed(7));
        assert_eq!((count(&bench.db, completed).await, claims(&bench).await), (7, 0));
    }
}
