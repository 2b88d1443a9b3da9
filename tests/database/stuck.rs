//! Rows whose item meets the same error each time, one that costs no attempt: they block no other row.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database::Transaction;
use service_core::{Outcome, Result};

use crate::Bench;
use crate::promises::{execute, run, service_db};
use crate::tables::{effect, effects, job, jobs, more_jobs};

const RESET: [&str; 3] = ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"];

/// A query that needs more memory than the server has, while all other statements work.
#[tokio::test]
async fn on_postgres_a_row_whose_statement_exhausts_the_server_blocks_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    let too_much = "CREATE FUNCTION too_much() RETURNS int AS $$ BEGIN \
                    RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200'; END $$ LANGUAGE plpgsql";
    execute(&bench, &[too_much]).await;
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 4).await;
        let service_db = service_db(&bench);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            if job.id == 2 {
                tx.execute_unprepared("SELECT too_much()").await?;
            }
            Ok(())
        };
        let mut failures = 0;
        for _ in 0..20 {
            failures += usize::from(run(&service_db, each, process).await.is_err());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(effects(&bench.db).await, [1, 3, 4], "{each}");
        assert!(failures <= 4, "{each} {failures}");
        // The others were completed meanwhile, so the row is the cause.
        let row = crate::tables::job(&bench.db, 2).await;
        assert_eq!((&*row.status, row.attempts), ("pending", 1), "{each} {row:?}");
        assert!(row.error_message.unwrap().contains("out of memory"));
    }
}

/// The server accepts no write at all: that costs no attempt, however often it is tried, and leaves out no row.
#[tokio::test]
async fn on_postgres_a_server_that_accepts_no_write_costs_no_attempt_and_leaves_no_row_out() {
    let Some(bench) = Bench::postgres().await else { return };
    let full = "CREATE FUNCTION full_disk() RETURNS trigger AS $$ BEGIN \
                RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql";
    execute(&bench, &[full]).await;
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 4).await;
        for table in ["effect", "service_store"] {
            let trigger =
                format!("CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()");
            execute(&bench, &[&trigger]).await;
        }
        let service_db = service_db(&bench);
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
        for _ in 0..20 {
            run(&service_db, each, process).await.unwrap_err();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        execute(&bench, &["DROP TRIGGER full_disk ON effect", "DROP TRIGGER full_disk ON service_store"]).await;
        for _ in 0..10 {
            let _ = run(&service_db, each, process).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(effects(&bench.db).await, [1, 2, 3, 4], "{each}");
        for id in 1..=4 {
            assert_eq!(crate::tables::job(&bench.db, id).await.attempts, 1, "{each} {id}");
        }
    }
}

/// Another transaction holds a lock for long, and the item does not wait for it.
#[tokio::test]
async fn on_postgres_a_row_that_always_meets_a_conflict_blocks_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    execute(&bench, &["CREATE TABLE account (id INT)", "INSERT INTO account VALUES (1)"]).await;
    for each in [false, true] {
        execute(&bench, &RESET).await;
        jobs(&bench.db, 1).await;
        let service_db = service_db(&bench);
        let locks = bench.db.begin().await.unwrap();
        locks.execute_unprepared("SELECT * FROM account FOR UPDATE").await.unwrap();
        let tried = AtomicUsize::new(0);
        let work = async || {
            let mut batch = match each {
                true => service_db.claim_each::<job::Entity>(1).await?,
                false => service_db.claim::<job::Entity>(1).await?,
            };
            while let Some(item) = batch.next().await? {
                let done = async {
                    if item.model().id == 1 {
                        tried.fetch_add(1, Ordering::Relaxed);
                        item.tx().execute_unprepared("SELECT * FROM account FOR UPDATE NOWAIT").await?;
                    }
                    effect(item.tx(), item.model().id).await
                };
                let done = done.await;
                item.settle(done).await?;
            }
            batch.commit().await
        };
        // More rows come all the time.
        for id in 2..=12 {
            more_jobs(&bench.db, id..=id).await;
            let _ = work().await.unwrap();
        }
        let tries = tried.load(Ordering::Relaxed);
        assert!(effects(&bench.db).await.len() >= 7 && tries <= 4, "{each}: {tries} {:?}", effects(&bench.db).await);
        assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 0, "{each}");
        locks.rollback().await.unwrap();
        let begun = Instant::now();
        while effects(&bench.db).await.len() < 12 {
            let _ = work().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < Duration::from_secs(20), "{each}: it is left out for too long");
        }
        assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 1, "{each}");
    }
}

/// On SQLite a batch of `claim` holds the write lock, so an item that writes elsewhere waits for its own batch.
#[tokio::test]
async fn on_sqlite_an_item_that_waits_for_the_lock_of_its_own_batch_fails() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 2).await;
    let elsewhere = Database::connect(ConnectOptions::new(bench.url.clone())).await.unwrap();
    elsewhere.execute_unprepared("PRAGMA busy_timeout = 0").await.unwrap();
    let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
        if job.id == 1 {
            elsewhere.execute_unprepared("INSERT INTO effect VALUES (99)").await?;
        }
        Ok(effect(tx, job.id).await?)
    };
    let done = run(&service_db(&bench), false, process).await.unwrap();
    assert_eq!(done, Outcome::processed(1).failed(1));
    assert_eq!((effects(&bench.db).await, crate::tables::job(&bench.db, 1).await.attempts), (vec![2], 1));
}

/// A trigger makes a statement that the database does not support, whenever this row is completed.
#[tokio::test]
async fn on_postgres_a_row_whose_completion_is_never_supported_blocks_no_other() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 4).await;
    let function = "CREATE FUNCTION unsupported() RETURNS trigger AS $$ BEGIN \
                    RAISE EXCEPTION 'not supported' USING ERRCODE = '0A000'; END $$ LANGUAGE plpgsql";
    let trigger = "CREATE TRIGGER unsupported BEFORE UPDATE ON job FOR EACH ROW \
                   WHEN (OLD.id = 2 AND NEW.status = 'completed') EXECUTE FUNCTION unsupported()";
    execute(&bench, &[function, trigger]).await;
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(2);
    let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "worker");
    let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
    for _ in 0..30 {
        let _ = run(&service_db, false, process).await;
    }
    assert_eq!(effects(&bench.db).await, [1, 3, 4]);
    let row = crate::tables::job(&bench.db, 2).await;
    assert_eq!((&*row.status, row.attempts), ("pending", 1), "{row:?}");
    assert!(row.error_message.unwrap().contains("not supported"));
}

/// Its batch holds the lock no longer, so the charge of the row waits as long as any other writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_the_charge_of_a_row_whose_transaction_has_ended_waits_for_other_writers() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 1).await;
    let elsewhere = Database::connect(ConnectOptions::new(bench.url.clone())).await.unwrap();
    let process = async |_: &job::Model, tx: &Transaction| -> Result<()> {
        tx.execute_unprepared("ROLLBACK").await?;
        let writer = elsewhere.begin().await?;
        effect(&writer, 99).await?;
        tokio::spawn(async move {
            // Longer than a service waits for its own batch.
            tokio::time::sleep(Duration::from_secs(6)).await;
            writer.rollback().await.unwrap();
        });
        Ok(())
    };
    assert_eq!(run(&service_db(&bench), false, process).await.unwrap(), Outcome::processed(0).failed(1));
    assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 1);
}
