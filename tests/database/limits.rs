//! Limits of a PostgreSQL server on the time of statements, and errors that come back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, Transaction};
use service_core::prelude::*;

use crate::Bench;
use crate::away::{health, until};
use crate::promises::run;
use crate::tables::{effect, effects, job, jobs, more_jobs, statuses};

/// A pool whose statements may take half a second.
async fn limited(bench: &Bench) -> DatabaseConnection {
    database::connect(&format!("{}&options[statement_timeout]=500ms", bench.url)).await.unwrap()
}

async fn tables(bench: &Bench, count: i64) {
    for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    jobs(&bench.db, count).await;
}

/// Another session locks the table while the framework writes a row's status.
#[tokio::test]
async fn a_limit_on_statements_of_the_framework_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for writes in [false, true] {
            let context = format!("each {each}, writes {writes}");
            tables(&bench, 3).await;
            // The table is known to complete rows.
            bench.db.execute_unprepared("UPDATE job SET status = 'completed' WHERE id = 3").await.unwrap();
            let service_db = ServiceDb::new(limited(&bench).await, "worker");
            let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                if writes { Ok(effect(tx, job.id).await?) } else { Ok(()) }
            };
            for _ in 0..2 {
                let lock = bench.db.begin().await.unwrap();
                let locking = AtomicUsize::new(0);
                let locked = async |job: &job::Model, tx: &Transaction| -> Result<()> {
                    process(job, tx).await?;
                    if locking.fetch_add(1, Ordering::SeqCst) == 0 {
                        lock.execute_unprepared("LOCK TABLE job IN SHARE MODE").await?;
                    }
                    Ok(())
                };
                let _ = run(&service_db, each, locked).await;
                lock.rollback().await.unwrap();
                for id in [1, 2] {
                    let row = crate::tables::job(&bench.db, id).await;
                    assert_eq!((&*row.status, row.attempts, row.error_message), ("pending", 0, None), "{context}");
                }
            }
            // Neither of the rows is left out of claims.
            for _ in 0..20 {
                let _ = run(&service_db, each, process).await;
            }
            assert_eq!(statuses(&bench.db).await, ["completed"; 3], "{context}");
            assert_eq!(effects(&bench.db).await, if writes { vec![1, 2] } else { vec![] }, "{context}");
        }
    }
}

/// An item fails in the meantime: its failure is written later, and its row is not left out of claims.
#[tokio::test]
async fn a_failure_that_cannot_be_written_in_time_is_written_later() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        tables(&bench, 1).await;
        let service_db = ServiceDb::new(limited(&bench).await, "worker");
        let lock = bench.db.begin().await.unwrap();
        let calls = AtomicUsize::new(0);
        let process = async |_: &job::Model, _: &Transaction| -> Result<()> {
            calls.fetch_add(1, Ordering::SeqCst);
            lock.execute_unprepared("LOCK TABLE job IN SHARE MODE").await?;
            Err(Error::msg("not this one"))
        };
        // On a busy machine, any statement may take longer than the limit: also the claim, and the later write.
        while calls.load(Ordering::SeqCst) == 0 {
            run(&service_db, each, &process).await.unwrap_err();
        }
        lock.rollback().await.unwrap();
        let begun = Instant::now();
        while crate::tables::job(&bench.db, 1).await.attempts == 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{each}");
            service_db.settle(None).await.unwrap();
        }
        assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 1, "{each}");
        bench.db.execute_unprepared("UPDATE job SET due = NULL").await.unwrap();
        let well = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
        let outcome = loop {
            if let Ok(outcome) = run(&service_db, each, &well).await {
                break outcome;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{each}");
        };
        assert_eq!(outcome, Outcome::processed(1), "{each}");
    }
}

/// Locks the table while its item fails permanently.
struct Locking {
    db: DatabaseConnection,
    lock: Arc<Mutex<Option<DatabaseTransaction>>>,
    calls: Arc<AtomicUsize>,
}

#[service(interval = "50ms", retry_delay = "50ms", max_failures = "unlimited", discover = false)]
impl Locking {
    async fn update(&self, cx: &Context) -> Result<Outcome> {
        let each = cx.service_id() == "each";
        let mut batch =
            if each { cx.claim_each::<job::Entity>(10).await? } else { cx.claim::<job::Entity>(10).await? };
        while let Some(item) = batch.next().await? {
            if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
                let lock = self.db.begin().await?;
                lock.execute_unprepared("LOCK TABLE job IN SHARE MODE").await?;
                *self.lock.lock().unwrap() = Some(lock);
            }
            item.settle(Err::<(), _>(Error::fatal("bad address"))).await?;
        }
        batch.commit().await
    }
}

/// An item fails permanently, and the write of its status meets a conflict: the item is not tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_cannot_be_written_at_once_is_not_forgotten() {
    let Some(bench) = Bench::postgres().await else { return };
    for id in ["together", "each"] {
        tables(&bench, 1).await;
        let url = format!("{}&options[lock_timeout]=300ms", bench.url);
        let (lock, calls) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (db, held, counted) = (bench.db.clone(), Arc::clone(&lock), Arc::clone(&calls));
        let locking = move || Locking { db: db.clone(), lock: Arc::clone(&held), calls: Arc::clone(&counted) };
        let builder = ServiceRegistry::builder().without_discovered().database_url(&url);
        let services = builder.service_fn(id, locking).start_all().await.unwrap();
        until("the run has failed", || health(&services, id).error_count > 0).await;
        let lock = lock.lock().unwrap().take();
        lock.unwrap().rollback().await.unwrap();
        let begun = Instant::now();
        while statuses(&bench.db).await != ["failed"] {
            assert!(begun.elapsed() < Duration::from_secs(30), "{id}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        services.shutdown().await.unwrap();
        let row = crate::tables::job(&bench.db, 1).await;
        let message = row.error_message.unwrap_or_default();
        assert_eq!((calls.load(Ordering::SeqCst), row.attempts, &*message), (1, 1, "bad address"), "{id}");
    }
}

/// The claims of an ended run cannot be released in time: its row loses its attempt later.
#[tokio::test]
async fn a_settlement_that_takes_too_long_is_written_later() {
    let Some(bench) = Bench::postgres().await else { return };
    tables(&bench, 2).await;
    let service_db = ServiceDb::new(limited(&bench).await, "worker");
    let mut batch = service_db.claim_each::<job::Entity>(10).await.unwrap();
    let _ = batch.next().await.unwrap();
    drop(batch);
    let lock = bench.db.begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE service_claim IN ACCESS EXCLUSIVE MODE").await.unwrap();
    service_db.settle(Some("it was dropped")).await.unwrap();
    lock.rollback().await.unwrap();
    service_db.settle(None).await.unwrap();
    let row = crate::tables::job(&bench.db, 1).await;
    assert_eq!((row.attempts, row.error_message.as_deref()), (1, Some("it was dropped")));
    // The claims are released, too.
    let well = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
    assert_eq!(run(&service_db, true, well).await.unwrap(), Outcome::processed(1));
}

/// From the third time in a row on, the row itself is the cause.
#[tokio::test]
async fn a_row_whose_completion_always_takes_too_long_blocks_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    bench
        .db
        .execute_unprepared("CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(30); RETURN new; END $$ LANGUAGE plpgsql")
        .await
        .unwrap();
    for each in [false, true] {
        tables(&bench, 3).await;
        let trigger = "CREATE TRIGGER slow BEFORE UPDATE ON job FOR EACH ROW \
                       WHEN (new.id = 2 AND new.status = 'completed') EXECUTE FUNCTION slow()";
        bench.db.execute_unprepared(trigger).await.unwrap();
        let service_db = ServiceDb::new(limited(&bench).await, "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
        for _ in 0..12 {
            let _ = run(&service_db, each, process).await;
        }
        assert_eq!(effects(&bench.db).await, [1, 3], "{each}: {:?}", statuses(&bench.db).await);
        let row = crate::tables::job(&bench.db, 2).await;
        assert_eq!((&*row.status, row.attempts), ("pending", 1), "{each}");
    }
}

/// While an index is built, rows can be claimed, but no row can be completed.
#[tokio::test]
async fn an_index_that_is_built_beside_a_worker_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        tables(&bench, 3).await;
        let service_db = ServiceDb::new(limited(&bench).await, "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
        let lock = bench.db.begin().await.unwrap();
        lock.execute_unprepared("LOCK TABLE job IN SHARE MODE").await.unwrap();
        for _ in 0..6 {
            let _ = run(&service_db, each, process).await;
        }
        lock.rollback().await.unwrap();
        // A row that completes shows that the table can be written again.
        more_jobs(&bench.db, 4..=4).await;
        for _ in 0..12 {
            let _ = run(&service_db, each, process).await;
        }
        assert_eq!(effects(&bench.db).await, [1, 2, 3, 4], "{each}: {:?}", statuses(&bench.db).await);
        for id in 1..=4 {
            assert_eq!(crate::tables::job(&bench.db, id).await.attempts, 1, "{each}: row {id}");
        }
    }
}

/// With `claim_each`, a row is charged from the third connection on that breaks in a row. A result in between is
/// written by one that does not break.
#[tokio::test]
async fn only_connections_that_break_in_a_row_cost_an_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    tables(&bench, 1).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let breaks = async |_: &job::Model, tx: &Transaction| -> Result<()> {
        tx.execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
        Ok(())
    };
    let fails = async |_: &job::Model, _: &Transaction| -> Result<()> { Err(Error::msg("not yet")) };
    for attempts in [1, 2] {
        for _ in 0..2 {
            run_with_row(&service_db, breaks).await.unwrap_err();
            assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, attempts - 1);
        }
        assert_eq!(run_with_row(&service_db, fails).await.unwrap(), Outcome::default().failed(1));
        assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, attempts);
        bench.db.execute_unprepared("UPDATE job SET due = NULL").await.unwrap();
    }
    for _ in 0..3 {
        run_with_row(&service_db, breaks).await.unwrap_err();
    }
    let begun = Instant::now();
    while crate::tables::job(&bench.db, 1).await.attempts < 3 {
        // The server may not have noticed yet that the connection is gone.
        service_db.settle(None).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "the third in a row is charged");
    }
}

/// Runs until there is a row: a connection that broke may still lock it.
async fn run_with_row(
    service_db: &ServiceDb,
    process: impl AsyncFn(&job::Model, &Transaction) -> Result<()>,
) -> Result<Outcome> {
    let begun = Instant::now();
    loop {
        let done = run(service_db, true, &process).await;
        if !done.as_ref().is_ok_and(|outcome| *outcome == Outcome::idle()) {
            return done;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the row is free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// PostgreSQL has one code for a statement that must be prepared again, and for one that it does not support.
#[tokio::test]
async fn a_statement_that_is_never_supported_costs_an_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        tables(&bench, 4).await;
        let mut options = ConnectOptions::new(bench.url.clone());
        options.max_connections(3);
        let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            if job.id == 2 {
                tx.execute_unprepared("SELECT count(*) FROM effect FOR UPDATE").await?;
            }
            Ok(())
        };
        let _ = run(&service_db, each, process).await.unwrap();
        assert_eq!(crate::tables::job(&bench.db, 2).await.attempts, 1, "{each}");
        assert_eq!(effects(&bench.db).await, [1, 3, 4], "{each}: the others proceed");
    }
}
