//! The promises of the work tables. Each test tries to break one of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, Statement, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, Transaction, WorkItem};
use service_core::{Error, Outcome, Result};

use crate::Bench;
use crate::log::Log;
use crate::tables::{effect, effects, job, jobs, statuses};

pub(crate) fn service_db(bench: &Bench) -> ServiceDb {
    ServiceDb::new(bench.db.clone(), "worker")
}

/// Runs one batch and settles it, as the loop of a service does.
pub(crate) async fn run(
    service_db: &ServiceDb,
    each: bool,
    process: impl AsyncFn(&job::Model, &Transaction) -> Result<()>,
) -> Result<Outcome> {
    let run = async {
        let mut batch = match each {
            true => service_db.claim_each::<job::Entity>(10).await?,
            false => service_db.claim::<job::Entity>(10).await?,
        };
        while let Some(item) = batch.next().await? {
            let done = process(item.model(), item.tx()).await;
            item.settle(done).await?;
        }
        batch.commit().await
    };
    let run = run.await;
    let error = run.as_ref().err().map(|error| format!("{error:#}"));
    service_db.settle(error.as_deref()).await?;
    run
}

/// The locks of a dropped transaction are free when its connection is back in the pool.
const LOCKS: Duration = Duration::from_millis(20);

/// Runs until nothing is due, and returns how many runs failed.
pub(crate) async fn run_to_the_end(
    service_db: &ServiceDb,
    each: bool,
    process: impl AsyncFn(&job::Model, &Transaction) -> Result<()>,
) -> usize {
    let mut failures = 0;
    for _ in 0..60 {
        match run(service_db, each, &process).await {
            Ok(outcome) if outcome == Outcome::idle() => return failures,
            Ok(_) => {}
            Err(_) => failures += 1,
        }
        tokio::time::sleep(LOCKS).await;
    }
    panic!("rows are still due after 60 runs");
}

// ── 1. nothing is reported as done before it is committed ───────────────────────────────────────────────────────────

/// Every completed row has its effect, and no other row has one.
async fn effects_belong_to_completed_rows(bench: &Bench, context: &str) {
    let statuses = statuses(&bench.db).await;
    let completed: Vec<i64> =
        (1..).zip(&statuses).filter(|(_, status)| *status == "completed").map(|(id, _)| id).collect();
    assert_eq!(effects(&bench.db).await, completed, "{context}: {statuses:?}");
}

/// Does something to its transaction that ends or spoils it. The item is then settled with `Ok`.
async fn misbehave(how: &str, tx: &Transaction) {
    match how {
        "rolls back by hand" => drop(tx.execute_unprepared("ROLLBACK").await),
        "ignores an error" => drop(tx.execute_unprepared("INSERT INTO nowhere VALUES (1)").await),
        "begins a savepoint after an error" => {
            let _ = tx.execute_unprepared("INSERT INTO nowhere VALUES (1)").await;
            let _ = TransactionTrait::begin(tx).await;
        }
        "cancels a savepoint" => {
            let begin = TransactionTrait::begin(tx);
            tokio::pin!(begin);
            // Polled once, then dropped while it waits for the database.
            let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(begin.as_mut().poll(cx))).await;
        }
        "ignores an error in a savepoint" => {
            if let Ok(inner) = TransactionTrait::begin(tx).await {
                let _ = inner.execute_unprepared("INSERT INTO nowhere VALUES (1)").await;
                let _ = inner.commit().await;
            }
        }
        "rolls back by hand in a savepoint" => {
            if let Ok(inner) = TransactionTrait::begin(tx).await {
                let _ = inner.execute_unprepared("ROLLBACK").await;
                drop(inner);
            }
        }
        _ => {}
    }
}

const MISBEHAVIOURS: [&str; 6] = [
    "rolls back by hand",
    "ignores an error",
    "begins a savepoint after an error",
    "cancels a savepoint",
    "ignores an error in a savepoint",
    "rolls back by hand in a savepoint",
];

pub(crate) async fn an_item_that_ends_its_transaction_is_not_reported_as_completed(bench: Bench) {
    for each in [false, true] {
        for how in MISBEHAVIOURS {
            for at in [1, 3] {
                for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
                    bench.db.execute_unprepared(sql).await.unwrap();
                }
                jobs(&bench.db, 3).await;
                let service_db = service_db(&bench);
                let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                    effect(tx, job.id).await?;
                    if job.id == at && job.attempts == 0 {
                        misbehave(how, tx).await;
                    }
                    Ok(())
                };
                for _ in 0..4 {
                    let _ = tokio::time::timeout(Duration::from_secs(20), run(&service_db, each, process)).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    effects_belong_to_completed_rows(&bench, &format!("{how}, row {at}, {each}")).await;
                }
                let left = statuses(&bench.db).await.iter().filter(|status| *status != "completed").count();
                assert!(left <= 1, "{how}, row {at}, {each}: {:?}", statuses(&bench.db).await);
            }
        }
    }
}

/// The same attempts in a transaction that the service itself has begun.
pub(crate) async fn a_commit_of_a_transaction_that_has_ended_is_an_error(bench: Bench) {
    for how in MISBEHAVIOURS {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 0).await;
        let tx = service_db(&bench).begin().await.unwrap();
        effect(&tx, 1).await.unwrap();
        misbehave(how, &tx).await;
        let second = effect(&tx, 2).await.is_ok();
        let committed = tx.commit().await.is_ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let expected = match (committed, second) {
            (true, true) => vec![1, 2],
            (true, false) => vec![1],
            (false, _) => vec![],
        };
        assert_eq!(effects(&bench.db).await, expected, "{how}: committed {committed}, second {second}");
    }
}

/// On SQLite a trigger can roll back the whole transaction, with an error that looks like any other.
#[tokio::test]
async fn on_sqlite_a_trigger_that_rolls_back_everything_is_noticed() {
    for each in [false, true] {
        for ignore in [false, true] {
            let bench = Bench::sqlite().await;
            jobs(&bench.db, 5).await;
            for sql in [
                "CREATE TABLE limited (id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)",
                "INSERT INTO limited VALUES (3)",
                "CREATE TRIGGER strict BEFORE INSERT ON effect WHEN NEW.job = 4 BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END",
            ] {
                bench.db.execute_unprepared(sql).await.unwrap();
            }
            let service_db = service_db(&bench);
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                if job.id == 3 {
                    let done = tx.execute_unprepared("INSERT INTO limited VALUES (3)").await;
                    if !ignore {
                        done?;
                    }
                }
                let done = effect(tx, job.id).await;
                if ignore { Ok(()) } else { Ok(done?) }
            };
            for _ in 0..12 {
                let _ = run(&service_db, each, process).await;
                let completed = statuses(&bench.db).await;
                let found = effects(&bench.db).await;
                for (id, status) in (1..).zip(&completed) {
                    let has_effect = found.contains(&id);
                    assert_eq!(has_effect, status == "completed", "{each} {ignore} row {id}: {completed:?} {found:?}");
                }
            }
            let good = statuses(&bench.db).await;
            assert_eq!([&good[0], &good[1], &good[4]], ["completed"; 3], "{each} {ignore}: {good:?}");
        }
    }
}

/// The application left a connection inside a transaction. A full disk can have the same result.
#[tokio::test]
async fn on_sqlite_a_connection_that_was_left_inside_a_transaction_is_not_used() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 40).await;
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(2);
    let pool = Database::connect(options).await.unwrap();
    for nested in [false, true] {
        // This uses both connections.
        let (first, second) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
        let inner = if nested { Some(first.begin().await.unwrap()) } else { None };
        first.execute_unprepared("ROLLBACK").await.unwrap();
        second.execute_unprepared("ROLLBACK").await.unwrap();
        drop((inner, first, second));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let service_db = ServiceDb::new(pool.clone(), "worker");
        for _ in 0..2 {
            // On a connection inside a transaction this would leave a savepoint open.
            let tx = service_db.begin().await.unwrap();
            tx.rollback().await.unwrap();
        }
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
        let outcomes =
            [run(&service_db, false, process).await.unwrap(), run(&service_db, true, process).await.unwrap()];
        let expected = Outcome::processed(10);
        for outcome in outcomes {
            assert!(outcome == expected || outcome == expected.again(), "{nested}: {outcome:?}");
        }
        // Reads through another connection.
        effects_belong_to_completed_rows(&bench, "").await;
        let completed = "SELECT count(*) AS n FROM job WHERE status = 'completed'";
        let completed = Statement::from_string(sea_orm::DbBackend::Sqlite, completed);
        let row = bench.db.query_one_raw(completed).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "n").unwrap(), if nested { 40 } else { 20 });
    }
}

// ── 2. rows become failed only for their own errors ──────────────────────────────────────────────────────────────────

pub(crate) async fn execute(bench: &Bench, statements: &[&str]) {
    for sql in statements {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
}

async fn work_well(job: &job::Model, tx: &Transaction) -> Result<()> {
    Ok(effect(tx, job.id).await?)
}

/// Every row is as it was in the beginning.
async fn nothing_was_touched(bench: &Bench, context: &str) {
    let select = "SELECT count(*) AS n FROM job WHERE status <> 'pending' OR attempts > 0";
    let select = Statement::from_string(bench.db.get_database_backend(), select);
    let touched: i64 = bench.db.query_one_raw(select).await.unwrap().unwrap().try_get("", "n").unwrap();
    assert_eq!(touched, 0, "{context}");
    assert_eq!(effects(&bench.db).await, Vec::<i64>::new(), "{context}");
}

/// A column does not fit the entity: the run fails, and the rows do not change.
pub(crate) async fn a_table_that_does_not_fit_its_entity_fails_the_run_and_no_row(bench: Bench) {
    let changes: &[&[&str]] = if bench.is_postgres() {
        &[
            &["ALTER TABLE job ALTER COLUMN payload TYPE jsonb USING to_jsonb(payload)"],
            &["CREATE TYPE word AS ENUM ('a')", "ALTER TABLE job ALTER COLUMN payload TYPE word USING 'a'::word"],
            &["ALTER TABLE job ALTER COLUMN id TYPE int"],
            &["ALTER TABLE job ALTER COLUMN attempts DROP NOT NULL", "UPDATE job SET attempts = NULL"],
            &[
                "UPDATE job SET error_message = 'x' WHERE id = 7",
                "ALTER TABLE job ALTER COLUMN error_message TYPE jsonb USING to_jsonb(error_message)",
            ],
            &["ALTER TABLE job RENAME COLUMN payload TO renamed"],
            &["UPDATE job SET error_message = ''", "ALTER TABLE job ALTER COLUMN error_message SET NOT NULL"],
            &["ALTER TABLE job ALTER COLUMN status TYPE varchar(8)"],
            &["ALTER TABLE job ADD CHECK (status <> 'completed')"],
        ]
    } else {
        &[
            &["UPDATE job SET updated_at = 'never'"],
            &["UPDATE job SET payload = x'00ff'"],
            &["ALTER TABLE job RENAME COLUMN payload TO renamed"],
            &[
                "CREATE TRIGGER strict BEFORE UPDATE ON job WHEN NEW.status = 'completed' BEGIN SELECT RAISE(FAIL, 'not so'); END",
            ],
        ]
    };
    for each in [false, true] {
        for change in changes {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            if bench.is_postgres() {
                execute(&bench, &["DROP TYPE IF EXISTS word"]).await;
            }
            jobs(&bench.db, 12).await;
            execute(&bench, change).await;
            let context = format!("{change:?} {each}");
            let service_db = service_db(&bench);
            let mut failures = 0;
            for _ in 0..5 {
                match run(&service_db, each, work_well).await {
                    Ok(outcome) => assert!(!outcome.has_more() || outcome != Outcome::idle().again(), "{context}"),
                    Err(_) => failures += 1,
                }
                nothing_was_touched(&bench, &context).await;
            }
            assert!(failures >= 3, "{context}: {failures}");
            let claims = Statement::from_string(bench.db.get_database_backend(), "SELECT owner FROM service_claim");
            assert_eq!(bench.db.query_all_raw(claims).await.unwrap().len(), 0, "{context}");
        }
    }
}

/// The rows of a claim that fails are free for the next claim. It would skip locked rows, and take rows after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_claim_that_cannot_read_its_rows_locks_none() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 12).await;
    execute(
        &bench,
        &[
            "UPDATE job SET error_message = 'x' WHERE id = 7",
            "ALTER TABLE job ALTER COLUMN error_message TYPE jsonb USING to_jsonb(error_message)",
        ],
    )
    .await;
    let service_db = service_db(&bench);
    for _ in 0..50 {
        for each in [false, true] {
            let claimed = match each {
                true => service_db.claim_each::<job::Entity>(10).await.is_ok(),
                false => service_db.claim::<job::Entity>(10).await.is_ok(),
            };
            assert!(!claimed, "{each}");
            execute(&bench, &["SELECT 1 FROM job FOR UPDATE NOWAIT"]).await;
            service_db.settle(None).await.unwrap();
        }
    }
}

/// If only one row does not fit a column or a CHECK, the error belongs to that row.
pub(crate) async fn only_the_row_that_does_not_fit_fails(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
            .await;
        jobs(&bench.db, 6).await;
        if bench.is_postgres() {
            execute(&bench, &["ALTER TABLE job ADD CHECK (status <> 'completed' OR id <> 2)"]).await;
        } else {
            let trigger = "CREATE TRIGGER strict BEFORE UPDATE ON job WHEN NEW.status = 'completed' AND NEW.id = 2 \
                           BEGIN SELECT RAISE(FAIL, 'not so'); END";
            execute(&bench, &[trigger]).await;
        }
        let service_db = service_db(&bench);
        let mut failures = 0;
        for _ in 0..12 {
            failures += usize::from(run(&service_db, each, work_well).await.is_err());
        }
        assert!(failures <= 2, "{failures}");
        assert_eq!(effects(&bench.db).await, [1, 3, 4, 5, 6], "{each}");
        let row = crate::tables::job(&bench.db, 2).await;
        assert_eq!((row.status.as_str(), row.attempts), ("pending", 1), "{each} {row:?}");
        assert!(row.error_message.is_some());
    }
}

/// A column was added without a default: older rows have no value in it, and rows of the new program do.
pub(crate) async fn a_row_without_a_value_that_the_framework_needs_is_left_as_it_is(bench: Bench) {
    for each in [false, true] {
        for column in ["attempts", "updated_at"] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 6).await;
            let nullable = if bench.is_postgres() {
                format!("ALTER TABLE job ALTER COLUMN {column} DROP NOT NULL")
            } else {
                // Without any constraint. On one connection, because others know an earlier schema until they read.
                let copy = format!("copy_{each}_{column}");
                format!("CREATE TABLE {copy} AS SELECT * FROM job; DROP TABLE job; ALTER TABLE {copy} RENAME TO job")
            };
            execute(&bench, &[&nullable, &format!("UPDATE job SET {column} = NULL WHERE id IN (2, 4)")]).await;
            let service_db = service_db(&bench);
            let context = format!("{each} {column}");
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(4), "{context}");
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::idle(), "{context}");
            assert_eq!(effects(&bench.db).await, [1, 3, 5, 6], "{context}");
            let expected = ["completed", "pending", "completed", "pending", "completed", "completed"];
            assert_eq!(statuses(&bench.db).await, expected, "{context}");
            // Another process, after the column was filled.
            let fill = if column == "attempts" { "0" } else { "'2026-01-31T12:00:00+00:00'" };
            execute(&bench, &[&format!("UPDATE job SET {column} = {fill} WHERE {column} IS NULL")]).await;
            let other = ServiceDb::new(bench.db.clone(), "other");
            assert_eq!(run(&other, each, work_well).await.unwrap(), Outcome::processed(2), "{context}");
        }
    }
}

/// Times that are never NULL for the entity: as a text on SQLite, and as a number.
mod dated {
    macro_rules! dated {
        ($module:ident, $table:literal, $time:ty) => {
            pub(crate) mod $module {
                use sea_orm::entity::prelude::*;
                use service_core::database::WorkItem;

                #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
                #[sea_orm(table_name = $table)]
                #[work_item(status = "status", available_at = "due")]
                pub(crate) struct Model {
                    #[sea_orm(primary_key)]
                    pub(crate) id: i64,
                    pub(crate) status: String,
                    pub(crate) due: $time,
                }

                #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
                pub(crate) enum Relation {}

                impl ActiveModelBehavior for ActiveModel {}
            }
        };
    }

    dated!(text, "dated", DateTimeUtc);
    dated!(number, "numbered", ChronoUnixTimestamp);
}

/// The same for the time by which rows are claimed.
pub(crate) async fn a_row_without_the_time_that_its_entity_requires_is_left_as_it_is(bench: Bench) {
    async fn check<E: WorkItem>(bench: &Bench, due: &str) {
        for each in [false, true] {
            let (table, column) = match due.starts_with('\'') {
                true => ("dated", "timestamp with time zone"),
                false => ("numbered", "bigint"),
            };
            execute(
                bench,
                &[
                    &format!("DROP TABLE IF EXISTS {table}"),
                    "DELETE FROM service_claim",
                    &format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, status TEXT NOT NULL, due {column})"),
                    &format!(
                        "INSERT INTO {table} VALUES (1, 'pending', {due}), (2, 'pending', NULL), (3, 'pending', {due}), (4, 'pending', NULL)"
                    ),
                ],
            )
            .await;
            database::create_claim_index::<E>(&bench.db).await.unwrap();
            let (log, _listening) = Log::listen();
            let service_db = service_db(bench);
            let take = async |service_db: &ServiceDb| match each {
                true => service_db.claim_each::<E>(10).for_each(async |_| ()).await.unwrap(),
                false => service_db.claim::<E>(10).for_each(async |_| ()).await.unwrap(),
            };
            assert_eq!(take(&service_db).await, Outcome::processed(2), "{due} {each}");
            assert_eq!(take(&service_db).await, Outcome::idle(), "{due} {each}");
            let warnings = log.warnings();
            for key in ["key=\"2\"", "key=\"4\""] {
                let is_named = |line: &String| line.contains(key) && line.contains("its column `due` is NULL");
                assert_eq!(warnings.iter().filter(|line| is_named(line)).count(), 1, "{due} {each}: {warnings:?}");
            }
            assert_eq!(warnings.len(), 2, "{due} {each}: {warnings:?}");
            // Another process, after the column was filled.
            execute(bench, &[&format!("UPDATE {table} SET due = {due} WHERE due IS NULL")]).await;
            let other = ServiceDb::new(bench.db.clone(), "other");
            assert_eq!(take(&other).await, Outcome::processed(2), "{due} {each}");
        }
    }
    check::<dated::text::Entity>(&bench, "'2026-01-31T12:00:00+00:00'").await;
    check::<dated::number::Entity>(&bench, "1769860800").await;
}

/// On PostgreSQL, an error that another transaction caused costs no attempt and is no failure of a run.
#[tokio::test]
async fn on_postgres_a_conflict_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for code in ["40001", "40P01", "55P03"] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"]).await;
            jobs(&bench.db, 4).await;
            let service_db = service_db(&bench);
            let (conflicts, begun) = (AtomicUsize::new(0), Instant::now());
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if job.id == 2 && conflicts.fetch_add(1, Ordering::Relaxed) < 3 {
                    let conflict = format!("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{code}'; END $$");
                    tx.execute_unprepared(&conflict).await?;
                }
                Ok(())
            };
            // After the third conflict in a row, the row is left out for a second.
            while statuses(&bench.db).await.iter().any(|status| status != "completed") {
                let _ = run(&service_db, each, process).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(begun.elapsed() < Duration::from_secs(30), "{code} {each}");
            }
            assert_eq!(effects(&bench.db).await, [1, 2, 3, 4], "{code} {each}");
            assert_eq!(crate::tables::job(&bench.db, 2).await.attempts, 1, "{code} {each}");
        }
    }
}

/// On PostgreSQL, an error that says that the server cannot work now ends the run, and costs no attempt. From the third
/// time in a row on, a connection that the server ends costs the row one that is alone.
#[tokio::test]
async fn on_postgres_a_server_that_cannot_work_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for code in ["25006", "53100", "53200", "53300", "58030", "XX001", "08006", "57P01", "57P03", "25P03"] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 4).await;
            let service_db = service_db(&bench);
            let refused = AtomicUsize::new(0);
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if job.id == 2 && refused.load(Ordering::Relaxed) < 2 {
                    refused.fetch_add(1, Ordering::Relaxed);
                    let error = format!("DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$");
                    tx.execute_unprepared(&error).await?;
                }
                Ok(())
            };
            let (mut failures, begun) = (0, Instant::now());
            // A run finds no rows while the transaction of the run before it still locks them.
            while statuses(&bench.db).await.iter().any(|status| status != "completed") {
                failures += usize::from(run(&service_db, each, process).await.is_err());
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(begun.elapsed() < Duration::from_secs(30), "{code} {each}");
            }
            assert_eq!(failures, 2, "{code} {each}");
            assert_eq!(effects(&bench.db).await, [1, 2, 3, 4], "{code} {each}");
            for id in 1..=4 {
                assert_eq!(crate::tables::job(&bench.db, id).await.attempts, 1, "{code} {each}");
            }
        }
    }
}

/// On PostgreSQL, with many workers: real conflicts at the commit, and a deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_conflicts_between_many_workers_fail_no_row() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 60).await;
    execute(
        &bench,
        &["CREATE TABLE account (id INT PRIMARY KEY, total INT NOT NULL)", "INSERT INTO account VALUES (1, 0), (2, 0)"],
    )
    .await;
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let service_db = ServiceDb::new(bench.db.clone(), format!("worker{n}"));
            tokio::spawn(async move {
                let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                    effect(tx, job.id).await?;
                    // Rows with odd and even ids lock the accounts in opposite orders.
                    let (first, second) = if job.id % 2 == 0 { (1, 2) } else { (2, 1) };
                    for id in [first, second] {
                        tx.execute_unprepared(&format!("UPDATE account SET total = total + 1 WHERE id = {id}")).await?;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Ok(())
                };
                let mut idle = 0;
                while idle < 3 {
                    match run(&service_db, n % 2 == 0, process).await {
                        Ok(outcome) if outcome == Outcome::idle() => {
                            idle += 1;
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        Ok(_) => idle = 0,
                        Err(error) => panic!("{error:#}"),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(100), worker).await.expect("it comes to an end").unwrap();
    }
    assert_eq!(effects(&bench.db).await, (1..=60).collect::<Vec<_>>());
    let charged = "SELECT count(*) AS n FROM job WHERE attempts <> 1 OR status <> 'completed'";
    let charged = Statement::from_string(sea_orm::DbBackend::Postgres, charged);
    assert_eq!(bench.db.query_one_raw(charged).await.unwrap().unwrap().try_get::<i64>("", "n").unwrap(), 0);
}

// ── 3. no effect is repeated in the database, whatever triggers and rules do to the row ──────────────────────────────

/// Triggers keep a row pending: before the update, after it, and at the end of the transaction.
pub(crate) async fn a_row_that_stays_pending_has_no_effect_and_blocks_no_other(bench: Bench) {
    let function = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION keep() RETURNS trigger AS $$ BEGIN {body} END $$ LANGUAGE plpgsql")
    };
    let again =
        "UPDATE job SET status = 'pending' WHERE id = NEW.id AND status = 'completed' AND id IN (2, 5); RETURN NULL;";
    let triggers: Vec<Vec<String>> = if bench.is_postgres() {
        vec![
            vec![
                function("IF OLD.id IN (2, 5) THEN RETURN NULL; END IF; RETURN NEW;"),
                "CREATE TRIGGER keep BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()".into(),
            ],
            vec![
                function("IF NEW.id IN (2, 5) THEN NEW.status := 'pending'; END IF; RETURN NEW;"),
                "CREATE TRIGGER keep BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()".into(),
            ],
            vec![function(again), "CREATE TRIGGER keep AFTER UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()".into()],
            vec![
                function(again),
                "CREATE CONSTRAINT TRIGGER keep AFTER UPDATE ON job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keep()".into(),
            ],
            vec!["CREATE RULE keep AS ON UPDATE TO job WHERE OLD.id IN (2, 5) DO INSTEAD NOTHING".into()],
            // Only a partition of a partition has the trigger.
            vec![
                "ALTER TABLE job RENAME TO plain".into(),
                "CREATE TABLE job (LIKE plain) PARTITION BY RANGE (id)".into(),
                "CREATE TABLE job_any PARTITION OF job DEFAULT PARTITION BY RANGE (id)".into(),
                "CREATE TABLE job_leaf PARTITION OF job_any DEFAULT".into(),
                "INSERT INTO job SELECT * FROM plain".into(),
                "DROP TABLE plain".into(),
                function("IF NEW.id IN (2, 5) THEN NEW.status := 'pending'; END IF; RETURN NEW;"),
                "CREATE TRIGGER keep BEFORE UPDATE ON job_leaf FOR EACH ROW EXECUTE FUNCTION keep()".into(),
            ],
        ]
    } else {
        vec![
            vec![
                "CREATE TRIGGER keep BEFORE UPDATE ON job WHEN OLD.id IN (2, 5) BEGIN SELECT RAISE(IGNORE); END".into(),
            ],
            vec![
                "CREATE TRIGGER keep AFTER UPDATE ON job WHEN NEW.id IN (2, 5) AND NEW.status = 'completed' \
                 BEGIN UPDATE job SET status = 'pending' WHERE id = NEW.id; END"
                    .into(),
            ],
            // For SQLite, `Job` is the table `job`.
            vec![
                "ALTER TABLE job RENAME TO other".into(),
                "ALTER TABLE other RENAME TO Job".into(),
                "CREATE TRIGGER keep AFTER UPDATE ON Job WHEN NEW.id IN (2, 5) AND NEW.status = 'completed' \
                 BEGIN UPDATE Job SET status = 'pending' WHERE id = NEW.id; END"
                    .into(),
            ],
        ]
    };
    for each in [false, true] {
        for trigger in &triggers {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 6).await;
            execute(&bench, &trigger.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let service_db = service_db(&bench);
            for _ in 0..8 {
                let _ = run(&service_db, each, work_well).await.unwrap();
                tokio::time::sleep(LOCKS).await;
            }
            assert_eq!(effects(&bench.db).await, [1, 3, 4, 6], "{trigger:?} {each}");
            let found = statuses(&bench.db).await;
            let kept = ["completed", "pending", "completed", "completed", "pending", "completed"];
            assert_eq!(found, kept, "{trigger:?} {each}");
            // New rows are still processed.
            crate::tables::more_jobs(&bench.db, 11..=12).await;
            let _ = run(&service_db, each, work_well).await.unwrap();
            assert_eq!(effects(&bench.db).await, [1, 3, 4, 6, 11, 12], "{trigger:?} {each}");
        }
    }
}

/// The same for a rule and a trigger that are created after the table was inspected: it is inspected again at the first
/// row that they keep.
pub(crate) async fn a_new_rule_or_trigger_is_noticed_at_the_first_row_that_it_keeps(bench: Bench) {
    let keeps = if bench.is_postgres() {
        vec![
            vec![
                "CREATE OR REPLACE FUNCTION keep() RETURNS trigger AS $$ BEGIN IF OLD.id = 12 THEN RETURN NULL; END IF; RETURN NEW; END \
                 $$ LANGUAGE plpgsql",
                "CREATE TRIGGER keep BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()",
            ],
            vec!["CREATE RULE keep AS ON UPDATE TO job WHERE OLD.id = 12 DO INSTEAD NOTHING"],
        ]
    } else {
        vec![vec!["CREATE TRIGGER keep BEFORE UPDATE ON job WHEN OLD.id = 12 BEGIN SELECT RAISE(IGNORE); END"]]
    };
    for keep in keeps {
        for has_effect in [false, true] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 3).await;
            let service_db = service_db(&bench);
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                if has_effect {
                    effect(tx, job.id).await?;
                }
                Ok(())
            };
            assert_eq!(run(&service_db, true, process).await.unwrap(), Outcome::processed(3), "{keep:?}");
            execute(&bench, &keep).await;
            crate::tables::more_jobs(&bench.db, 11..=13).await;
            for _ in 0..3 {
                let _ = run(&service_db, true, process).await;
                tokio::time::sleep(LOCKS).await;
            }
            let kept = ["completed", "completed", "completed", "completed", "pending", "completed"];
            assert_eq!(statuses(&bench.db).await, kept, "{keep:?} {has_effect}");
            let expected = if has_effect { vec![1, 2, 3, 11, 13] } else { vec![] };
            assert_eq!(effects(&bench.db).await, expected, "{keep:?} {has_effect}");
        }
    }
}

/// The same for triggers that let the row be updated, and write another status.
pub(crate) async fn a_new_trigger_that_writes_the_status_is_noticed(bench: Bench) {
    let again = "UPDATE job SET status = 'pending' WHERE id = NEW.id";
    let function = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION keep() RETURNS trigger AS $$ BEGIN {body} END $$ LANGUAGE plpgsql")
    };
    let keeps = if bench.is_postgres() {
        let trigger = |when| format!("CREATE TRIGGER keep {when} UPDATE ON job FOR EACH ROW EXECUTE FUNCTION keep()");
        vec![
            vec![function("IF NEW.id = 12 THEN NEW.status := 'pending'; END IF; RETURN NEW;"), trigger("BEFORE")],
            vec![
                function(&format!("IF NEW.id = 12 AND NEW.status = 'completed' THEN {again}; END IF; RETURN NULL;")),
                trigger("AFTER"),
            ],
        ]
    } else {
        vec![vec![format!(
            "CREATE TRIGGER keep AFTER UPDATE ON job WHEN NEW.id = 12 AND NEW.status = 'completed' BEGIN {again}; END"
        )]]
    };
    // A batch of SQLite locks the database.
    let moments = if bench.is_postgres() { vec![false, true] } else { vec![false] };
    for (keep, in_batch) in keeps.iter().flat_map(|keep| moments.iter().map(move |moment| (keep, *moment))) {
        let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
        for each in [false, true] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 3).await;
            let service_db = service_db(&bench);
            assert_eq!(run(&service_db, each, work_well).await.unwrap(), Outcome::processed(3), "{keep:?}");
            if !in_batch {
                execute(&bench, &keep).await;
            }
            crate::tables::more_jobs(&bench.db, 11..=13).await;
            let tries = AtomicUsize::new(0);
            let process = async |job: &job::Model, tx: &Transaction| {
                if in_batch && tries.fetch_add(1, Ordering::Relaxed) == 0 {
                    execute(&bench, &keep).await;
                }
                work_well(job, tx).await
            };
            for _ in 0..4 {
                let _ = run(&service_db, each, process).await;
                tokio::time::sleep(LOCKS).await;
            }
            assert_eq!(effects(&bench.db).await, [1, 2, 3, 11, 13], "{keep:?} {each} {in_batch}");
        }
    }
}

/// A trigger makes a row that has failed pending again, with all its attempts: it would be processed without an end.
pub(crate) async fn a_trigger_that_takes_a_failure_back_blocks_no_other(bench: Bench) {
    let triggers: &[&[&str]] = if bench.is_postgres() {
        &[
            &[
                "CREATE OR REPLACE FUNCTION back() RETURNS trigger AS $$ BEGIN IF NEW.status = 'failed' THEN NEW.status := 'pending'; \
                 END IF; RETURN NEW; END $$ LANGUAGE plpgsql",
                "CREATE TRIGGER back BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION back()",
            ],
            &[
                "CREATE OR REPLACE FUNCTION back() RETURNS trigger AS $$ BEGIN UPDATE job SET status = 'pending' WHERE id = NEW.id; \
                 RETURN NULL; END $$ LANGUAGE plpgsql",
                "CREATE TRIGGER back AFTER UPDATE ON job FOR EACH ROW WHEN (NEW.status = 'failed') EXECUTE FUNCTION back()",
            ],
        ]
    } else {
        &[&["CREATE TRIGGER back AFTER UPDATE ON job WHEN NEW.status = 'failed' \
             BEGIN UPDATE job SET status = 'pending' WHERE id = NEW.id; END"]]
    };
    for each in [false, true] {
        for trigger in triggers {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 3).await;
            execute(&bench, trigger).await;
            let (service_db, tries) = (service_db(&bench), AtomicUsize::new(0));
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                if job.id == 2 {
                    tries.fetch_add(1, Ordering::Relaxed);
                    return Err(Error::fatal("hopeless"));
                }
                Ok(effect(tx, job.id).await?)
            };
            for _ in 0..5 {
                let _ = run(&service_db, each, process).await;
                tokio::time::sleep(LOCKS).await;
            }
            assert_eq!((tries.into_inner(), effects(&bench.db).await), (1, vec![1, 3]), "{trigger:?} {each}");
        }
    }
}

// ── 4. a row whose status cannot be written never blocks others ──────────────────────────────────────────────────────

/// One row cannot be marked `failed`; another cannot be changed at all.
pub(crate) async fn a_row_that_cannot_be_marked_blocks_no_other(bench: Bench) {
    let strict = |condition: &str| -> Vec<String> {
        if bench.is_postgres() {
            vec![
                format!(
                    "CREATE OR REPLACE FUNCTION strict() RETURNS trigger AS $$ BEGIN IF {condition} THEN RAISE EXCEPTION 'not so'; \
                     END IF; RETURN NEW; END $$ LANGUAGE plpgsql"
                ),
                "CREATE TRIGGER strict BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION strict()".into(),
            ]
        } else {
            vec![format!(
                "CREATE TRIGGER strict BEFORE UPDATE ON job WHEN {condition} BEGIN SELECT RAISE(FAIL, 'not so'); END"
            )]
        }
    };
    for each in [false, true] {
        for condition in ["NEW.status = 'failed'", "OLD.id = 2"] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 6).await;
            let strict = strict(condition);
            execute(&bench, &strict.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let service_db = service_db(&bench);
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                effect(tx, job.id).await?;
                if job.id == 2 { Err(Error::fatal("hopeless")) } else { Ok(()) }
            };
            let failures = run_to_the_end(&service_db, each, process).await;
            assert!(failures <= 1, "{condition} {each}: {failures}");
            assert_eq!(effects(&bench.db).await, [1, 3, 4, 5, 6], "{condition} {each}");
            assert_eq!(statuses(&bench.db).await[1], "pending", "{condition} {each}");
            crate::tables::more_jobs(&bench.db, 11..=13).await;
            assert_eq!(run(&service_db, each, process).await.unwrap(), Outcome::processed(3), "{condition} {each}");
            let claims = Statement::from_string(bench.db.get_database_backend(), "SELECT owner FROM service_claim");
            assert_eq!(bench.db.query_all_raw(claims).await.unwrap().len(), 0, "{condition} {each}");
        }
    }
}

/// Creates rows; a deferred foreign key refuses the status `failed`.
pub(crate) async fn jobs_that_cannot_fail(bench: &Bench, count: i64) {
    jobs(&bench.db, 0).await;
    execute(
        bench,
        &[
            "CREATE TABLE job_status (name TEXT PRIMARY KEY)",
            "INSERT INTO job_status VALUES ('pending'), ('completed')",
        ],
    )
    .await;
    if bench.is_postgres() {
        execute(
            bench,
            &["ALTER TABLE job ADD FOREIGN KEY (status) REFERENCES job_status DEFERRABLE INITIALLY DEFERRED"],
        )
        .await;
    } else {
        // SQLite cannot add a foreign key to a table.
        let select = "SELECT sql FROM sqlite_master WHERE name = 'job'";
        let select = Statement::from_string(bench.db.get_database_backend(), select);
        let create: String = bench.db.query_one_raw(select).await.unwrap().unwrap().try_get("", "sql").unwrap();
        let key = ", FOREIGN KEY (status) REFERENCES job_status DEFERRABLE INITIALLY DEFERRED )";
        let create = format!("{}{key}", create.trim_end().strip_suffix(')').unwrap());
        execute(bench, &["DROP TABLE job", &create]).await;
    }
    crate::tables::more_jobs(&bench.db, 1..=count).await;
}

/// Claims row 1, and ends while its item is in flight.
async fn leave_in_flight(service_db: &ServiceDb, each: bool) {
    let mut batch = match each {
        true => service_db.claim_each::<job::Entity>(1).await.unwrap(),
        false => service_db.claim::<job::Entity>(1).await.unwrap(),
    };
    assert_eq!(batch.next().await.unwrap().unwrap().model().id, 1);
}

/// The charge of a row in flight always fails, although the database is there: the other rows are claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_charge_that_the_database_does_not_support_blocks_no_claim() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for code in ["0A000", "53200", "58030", "XX002"] {
            execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
                .await;
            jobs(&bench.db, 3).await;
            let function = format!(
                "CREATE OR REPLACE FUNCTION broken() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'broken' \
                 USING ERRCODE = '{code}'; END $$ LANGUAGE plpgsql"
            );
            let trigger = "CREATE TRIGGER broken BEFORE UPDATE ON job FOR EACH ROW \
                           WHEN (OLD.id = 1 AND NEW.attempts > 0 AND NEW.status <> 'completed') EXECUTE FUNCTION broken()";
            execute(&bench, &[&function, trigger]).await;
            let service_db = service_db(&bench);
            leave_in_flight(&service_db, each).await;
            service_db.settle(Some("it panicked")).await.unwrap();
            for _ in 0..3 {
                let _ = run(&service_db, each, work_well).await.unwrap();
            }
            assert_eq!(statuses(&bench.db).await[1..], ["completed", "completed"], "{each} {code}");
        }
    }
}

/// The same warning as for an item that fails permanently in its run.
pub(crate) async fn a_row_that_fails_when_its_run_has_ended_is_a_warning(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
            .await;
        jobs(&bench.db, 1).await;
        execute(&bench, &["UPDATE job SET attempts = 2"]).await;
        let service_db = service_db(&bench);
        leave_in_flight(&service_db, each).await;
        let (log, _listening) = crate::log::Log::listen();
        service_db.settle(Some("it panicked")).await.unwrap();
        assert_eq!(statuses(&bench.db).await, ["failed"], "{each}");
        let warnings = log.warnings();
        assert_eq!(warnings.len(), 1, "{each}: {warnings:?}");
        for part in ["an item failed permanently", "key=\"1\"", "attempt=3", "it panicked"] {
            assert!(warnings[0].contains(part), "{each} {part}: {warnings:?}");
        }
    }
}

/// A view whose triggers write into another table: SQLite counts no row as changed.
#[tokio::test]
async fn on_sqlite_a_row_of_a_view_loses_its_attempts() {
    for each in [false, true] {
        let bench = Bench::sqlite().await;
        jobs(&bench.db, 3).await;
        // On one connection, because others know an earlier schema until they read.
        let view = "ALTER TABLE job RENAME TO row_of_job; CREATE VIEW job AS SELECT * FROM row_of_job; \
                    CREATE TRIGGER job_update INSTEAD OF UPDATE ON job BEGIN UPDATE row_of_job SET status = NEW.status, \
                    error_message = NEW.error_message, attempts = NEW.attempts, due = NEW.due, \
                    updated_at = NEW.updated_at WHERE id = OLD.id; END";
        execute(&bench, &[view]).await;
        let service_db = service_db(&bench);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            match job.id {
                1 => Err(Error::msg("not yet")),
                2 => Err(Error::fatal("hopeless")),
                _ => Ok(()),
            }
        };
        assert_eq!(run(&service_db, each, process).await.unwrap(), Outcome::processed(1).failed(2), "{each}");
        assert_eq!(statuses(&bench.db).await, ["pending", "failed", "completed"], "{each}");
        let row = crate::tables::job(&bench.db, 1).await;
        assert_eq!((row.attempts, row.error_message.as_deref()), (1, Some("not yet")), "{each}");
        assert_eq!(effects(&bench.db).await, [3], "{each}");
        // A row in flight when its run ends.
        execute(&bench, &["UPDATE row_of_job SET due = NULL WHERE id = 1"]).await;
        leave_in_flight(&service_db, each).await;
        service_db.settle(Some("it panicked")).await.unwrap();
        assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 2, "{each}");
    }
}

/// The same if the database refuses `failed` only at the commit.
pub(crate) async fn a_row_whose_failure_is_refused_at_the_commit_blocks_no_other(bench: Bench) {
    for each in [false, true] {
        execute(
            &bench,
            &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DROP TABLE IF EXISTS job_status"],
        )
        .await;
        jobs_that_cannot_fail(&bench, 6).await;
        let service_db = service_db(&bench);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            if job.id == 2 { Err(Error::fatal("hopeless")) } else { Ok(()) }
        };
        let failures = run_to_the_end(&service_db, each, process).await;
        assert!(failures <= 1, "{each}: {failures}");
        assert_eq!(effects(&bench.db).await, [1, 3, 4, 5, 6], "{each}");
        assert_eq!(statuses(&bench.db).await[1], "pending", "{each}");
        crate::tables::more_jobs(&bench.db, 11..=13).await;
        assert_eq!(run(&service_db, each, process).await.unwrap(), Outcome::processed(3), "{each}");
        let claims = Statement::from_string(bench.db.get_database_backend(), "SELECT owner FROM service_claim");
        assert_eq!(bench.db.query_all_raw(claims).await.unwrap().len(), 0, "{each}");
    }
}

/// More processes have died while they worked on this row than are tolerated.
async fn processes_died_over(bench: &Bench, id: i64) {
    let now = chrono::Utc::now().timestamp_millis();
    let claim = format!(
        "INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at, seq, crashes) \
         VALUES ('job', '{id}', 'worker', '', {now}, 0, 5)"
    );
    execute(bench, &[&claim]).await;
}

/// The same for a row that kills its processes: the next claim takes an attempt from it.
pub(crate) async fn a_row_that_kills_processes_and_cannot_be_marked_blocks_no_other(bench: Bench) {
    jobs(&bench.db, 4).await;
    processes_died_over(&bench, 2).await;
    if bench.is_postgres() {
        execute(&bench, &["CREATE RULE keep AS ON UPDATE TO job WHERE OLD.id = 2 DO INSTEAD NOTHING"]).await;
    } else {
        execute(
            &bench,
            &["CREATE TRIGGER strict BEFORE UPDATE ON job WHEN OLD.id = 2 BEGIN SELECT RAISE(FAIL, 'not so'); END"],
        )
        .await;
    }
    let service_db = service_db(&bench);
    for _ in 0..3 {
        let _ = run(&service_db, true, work_well).await.unwrap();
        tokio::time::sleep(LOCKS).await;
    }
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
    crate::tables::more_jobs(&bench.db, 11..=12).await;
    assert_eq!(run(&service_db, true, work_well).await.unwrap(), Outcome::processed(2));
}

/// The same if the database refuses the end of its attempts only at the commit.
pub(crate) async fn a_row_that_kills_processes_and_is_refused_at_the_commit_blocks_no_other(bench: Bench) {
    jobs_that_cannot_fail(&bench, 4).await;
    execute(&bench, &["UPDATE job SET attempts = 100 WHERE id = 2"]).await;
    processes_died_over(&bench, 2).await;
    let service_db = service_db(&bench);
    let failures = run_to_the_end(&service_db, true, work_well).await;
    assert_eq!((failures, effects(&bench.db).await), (1, vec![1, 3, 4]));
    crate::tables::more_jobs(&bench.db, 11..=12).await;
    assert_eq!(run(&service_db, true, work_well).await.unwrap(), Outcome::processed(2));
}

/// The error's text is too long for its column, though the entity does not say so: what fits is kept.
pub(crate) async fn a_message_that_does_not_fit_is_shortened(bench: Bench) {
    for each in [false, true] {
        execute(&bench, &["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"])
            .await;
        jobs(&bench.db, 2).await;
        if bench.is_postgres() {
            execute(&bench, &["ALTER TABLE job ALTER COLUMN error_message TYPE varchar(50)"]).await;
        } else {
            execute(&bench, &["CREATE TRIGGER strict BEFORE UPDATE ON job WHEN length(NEW.error_message) > 50 BEGIN SELECT RAISE(FAIL, 'too long'); END"]).await;
        }
        let service_db = service_db(&bench);
        let process = async |job: &job::Model, _: &Transaction| -> Result<()> {
            if job.id == 1 { Err(Error::fatal(format!("größer → {}", "x".repeat(300)))) } else { Ok(()) }
        };
        assert_eq!(run(&service_db, each, process).await.unwrap(), Outcome::processed(1).failed(1));
        let row = crate::tables::job(&bench.db, 1).await;
        assert_eq!((row.status.as_str(), row.attempts), ("failed", 1));
        assert!(row.error_message.as_ref().is_some_and(|message| message.starts_with("gr??er")), "{row:?}");
    }
}

/// PostgreSQL: a database that cannot keep every character.
#[tokio::test]
async fn on_postgres_a_message_that_cannot_be_encoded_is_kept_in_ascii() {
    let Some(bench) = Bench::postgres().await else { return };
    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    bench.db.execute_unprepared(latin).await.unwrap();
    let (start, end) = bench.url.split_once("?host=").unwrap();
    let url = format!("{}/latin?host={end}", start.rsplit_once('/').unwrap().0);
    let bench = Bench::open(url, None).await;
    jobs(&bench.db, 1).await;
    let process = async |_: &job::Model, _: &Transaction| -> Result<()> { Err(Error::fatal("größer → als 5")) };
    assert_eq!(run(&service_db(&bench), false, process).await.unwrap(), Outcome::processed(0).failed(1));
    let row = crate::tables::job(&bench.db, 1).await;
    assert_eq!(row.error_message.as_deref(), Some("gr??er ? als 5"));
}
