//! Savepoints that are still open when their transaction or their item ends.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};
use service_core::database::Transaction;
use service_core::{Error, Outcome, Result};

use crate::Bench;
use crate::promises::{run_to_the_end, service_db};
use crate::tables::{effect, effects, job, jobs, statuses};

/// Savepoints inside each other, each with a write.
async fn savepoints(tx: &Transaction, count: usize, job: i64) -> Vec<DatabaseTransaction> {
    let mut open = vec![TransactionTrait::begin(tx).await.unwrap()];
    while open.len() < count {
        let inner = open.last().unwrap().begin().await.unwrap();
        open.push(inner);
    }
    for savepoint in &open {
        effect(savepoint, job).await.unwrap();
    }
    open
}

/// The innermost first.
fn drop_in_order(mut open: Vec<DatabaseTransaction>) {
    while open.pop().is_some() {}
}

/// Limits in real time.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

pub(crate) async fn a_commit_with_an_open_savepoint_is_an_error_and_frees_every_lock(bench: Bench) {
    jobs(&bench.db, 1).await;
    let service_db = service_db(&bench);
    for count in [1, 2] {
        for proven in [false, true] {
            let tx = service_db.begin().await.unwrap();
            tx.execute_unprepared("UPDATE job SET payload = 'locked'").await.unwrap();
            let open = savepoints(&tx, count, 1).await;
            if proven {
                effect(&tx, 2).await.unwrap();
            }
            let error = tx.commit().await.unwrap_err().to_string();
            assert!(error.contains("a savepoint of this transaction is still open"), "{error}");
            let write = bench.db.execute_unprepared("UPDATE job SET payload = 'free'");
            soon("the lock is free while the savepoint exists", write).await.unwrap();
            drop_in_order(open);
            assert_eq!(effects(&bench.db).await, Vec::<i64>::new(), "{count} {proven}");
        }
    }
    // Savepoints that have ended are no obstacle.
    let tx = service_db.begin().await.unwrap();
    drop(TransactionTrait::begin(&tx).await.unwrap());
    TransactionTrait::begin(&tx).await.unwrap().rollback().await.unwrap();
    let savepoint = TransactionTrait::begin(&tx).await.unwrap();
    effect(&savepoint, 3).await.unwrap();
    savepoint.commit().await.unwrap();
    tx.transaction(|tx| Box::pin(async move { effect(tx, 4).await })).await.unwrap();
    tx.commit().await.unwrap();
    for job in 5..20 {
        let tx = service_db.begin().await.unwrap();
        effect(&tx, job).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(effects(&bench.db).await, (3..20).collect::<Vec<_>>());
}

/// The loop of a service whose savepoint is dropped at the end of the body, after the item was settled.
pub(crate) async fn an_open_savepoint_affects_only_its_item(bench: Bench) {
    for each in [false, true] {
        for (count, succeeds) in [(1, false), (1, true), (2, false), (2, true)] {
            for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
                bench.db.execute_unprepared(sql).await.unwrap();
            }
            jobs(&bench.db, 6).await;
            let service_db = service_db(&bench);
            let context = format!("each {each}, {count} savepoints, succeeds {succeeds}");
            let run = async {
                let mut batch = match each {
                    true => service_db.claim_each::<job::Entity>(10).await?,
                    false => service_db.claim::<job::Entity>(10).await?,
                };
                while let Some(item) = batch.next().await? {
                    let id = item.model().id;
                    let leaves_open = id % 3 == 2;
                    let open = savepoints(item.tx(), if leaves_open { count } else { 1 }, id).await;
                    if leaves_open {
                        item.settle(if succeeds { Ok(()) } else { Err(Error::msg("not this one")) }).await?;
                        drop_in_order(open);
                    } else {
                        for savepoint in open {
                            savepoint.commit().await?;
                        }
                        item.settle(Ok::<_, Error>(())).await?;
                    }
                }
                batch.commit().await
            };
            let outcome = soon(&context, run).await.unwrap();
            assert_eq!(outcome, Outcome::processed(4).failed(2), "{context}");
            service_db.settle(None).await.unwrap();
            assert_eq!(effects(&bench.db).await, [1, 3, 4, 6], "{context}");
            for id in 1..=6 {
                let row = crate::tables::job(&bench.db, id).await;
                let expected = if id % 3 == 2 { ("pending", 1) } else { ("completed", 1) };
                assert_eq!((&*row.status, row.attempts), expected, "{context}: {row:?}");
                let expected = match (id % 3, succeeds) {
                    (2, true) => "a savepoint of this transaction is still open",
                    (2, false) => "not this one",
                    _ => "",
                };
                let message = row.error_message.unwrap_or_default();
                assert!(message.contains(expected), "{context}: {message}");
            }
        }
    }
}

/// A savepoint that outlives the step to the next item would undo the writes of that item.
pub(crate) async fn a_savepoint_that_outlives_its_item_ends_the_batch(bench: Bench) {
    jobs(&bench.db, 4).await;
    let service_db = service_db(&bench);
    let mut open = Vec::new();
    let run = async {
        let mut batch = service_db.claim::<job::Entity>(10).await?;
        while let Some(item) = batch.next().await? {
            open = savepoints(item.tx(), 1, item.model().id).await;
            item.settle(Err::<(), _>("not yet")).await?;
        }
        batch.commit().await
    };
    let error = soon("the run", run).await.unwrap_err().to_string();
    assert!(error.contains("a savepoint of this transaction is still open"), "{error}");
    soon("settling", service_db.settle(Some(&error))).await.unwrap();
    assert_eq!(statuses(&bench.db).await, ["pending"; 4]);
    assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 0);
    drop_in_order(open);
    let process = async |job: &job::Model, tx: &Transaction| -> Result<()> { Ok(effect(tx, job.id).await?) };
    assert_eq!(soon("the rest", run_to_the_end(&service_db, false, process)).await, 0);
    assert_eq!(effects(&bench.db).await, [1, 2, 3, 4]);
}
