//! The promises of the work tables, each with attempts to break it.

use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, Statement, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database::Transaction;
use service_core::{Outcome, Result};

use crate::Bench;
use crate::tables::{effect, effects, job, jobs, statuses};

fn service_db(bench: &Bench) -> ServiceDb {
    ServiceDb::new(bench.db.clone(), "worker")
}

/// One run of a batch, settled as a service's run is.
async fn run(
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

// ── 1. nothing is reported as done that did not commit ───────────────────────────────────────────────────────────────

/// Completed rows have their effect, and no others have one.
async fn effects_belong_to_completed_rows(bench: &Bench, context: &str) {
    let statuses = statuses(&bench.db).await;
    let completed: Vec<i64> =
        (1..).zip(&statuses).filter(|(_, status)| *status == "completed").map(|(id, _)| id).collect();
    assert_eq!(effects(&bench.db).await, completed, "{context}: {statuses:?}");
}

/// What an item does to its transaction, and then settles with `Ok`.
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
            // Polled once, and dropped while it waits for the database.
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

pub(crate) async fn an_item_that_ends_its_transaction_does_not_complete_what_is_lost(bench: Bench) {
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

/// A transaction of the service's own, in the same way.
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

/// SQLite: a trigger that rolls the whole transaction back, with an error that looks like any other.
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

/// A connection that the application left inside a transaction, as a full disk leaves it.
#[tokio::test]
async fn on_sqlite_a_connection_that_was_left_inside_a_transaction_is_not_used() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 40).await;
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(2);
    let pool = Database::connect(options).await.unwrap();
    for nested in [false, true] {
        // Both connections.
        let (first, second) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
        let inner = if nested { Some(first.begin().await.unwrap()) } else { None };
        first.execute_unprepared("ROLLBACK").await.unwrap();
        second.execute_unprepared("ROLLBACK").await.unwrap();
        drop((inner, first, second));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let service_db = ServiceDb::new(pool.clone(), "worker");
        for _ in 0..2 {
            // Which would leave a savepoint open.
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
        // As another connection sees it.
        effects_belong_to_completed_rows(&bench, "").await;
        let completed = "SELECT count(*) AS n FROM job WHERE status = 'completed'";
        let completed = Statement::from_string(sea_orm::DbBackend::Sqlite, completed);
        let row = bench.db.query_one_raw(completed).await.unwrap().unwrap();
        assert_eq!(row.try_get::<i64>("", "n").unwrap(), if nested { 40 } else { 20 });
    }
}
