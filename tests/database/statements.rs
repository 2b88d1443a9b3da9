//! The statements that a batch sends to PostgreSQL, from the log of the driver: every statement is a round trip.

use service_core::__private::database::ServiceDb;
use service_core::Outcome;

use crate::Bench;
use crate::log::Log;
use crate::tables::{effect, jobs, more_jobs};

/// The first word of each statement.
fn statements(log: &Log) -> Vec<String> {
    let summaries =
        log.lines().into_iter().filter_map(|line| line.split_once("summary=\"").map(|(_, sql)| sql.to_owned()));
    summaries.map(|sql| sql.split([' ', '"', ';']).next().unwrap_or_default().to_owned()).collect()
}

/// Of 10 rows, the first three write.
async fn work(service_db: &ServiceDb) -> Outcome {
    let mut batch = service_db.claim::<crate::tables::job::Entity>(10).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        let done = if item.model().id <= 3 { effect(item.tx(), item.model().id).await } else { Ok(()) };
        item.settle(done).await.unwrap();
    }
    batch.commit().await.unwrap()
}

#[tokio::test]
async fn a_batch_is_one_claim_one_update_and_a_savepoint_for_each_item_that_writes() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 0).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    // The first claim also checks the table.
    assert_eq!(work(&service_db).await, Outcome::idle());
    more_jobs(&bench.db, 1..=10).await;
    let (log, _listening) = Log::listen_to("sqlx::query");
    assert_eq!(work(&service_db).await, Outcome::processed(10));
    let sent = statements(&log);
    let count = |word: &str| sent.iter().filter(|sent| *sent == word).count();
    // The claim and the completion.
    assert_eq!((count("WITH"), count("UPDATE"), count("INSERT"), count("COMMIT")), (2, 0, 3, 1), "{sent:?}");
    // The isolation level, a check that the transaction is still open, and at most one more statement per item that
    // writes.
    assert!(sent.len() <= 3 + 3 + 3 + 2, "{sent:?}");
    let claim = log.lines().into_iter().find(|line| line.contains("WITH")).unwrap();
    assert!(claim.contains("FOR NO KEY UPDATE") && claim.contains("SKIP LOCKED"), "{claim}");
}
