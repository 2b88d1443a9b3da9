//! Rows of a service while something is down that it names in `needs`: they lose no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use service_core::prelude::*;
use service_core::testing::TestBed;

use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs};

on_each! {
    items_that_fail_during_an_outage_lose_no_attempt,
    fatal_errors_are_those_of_the_rows_during_an_outage_too,
}

/// Sends each row to an API, which may be away.
struct Sender {
    is_away: Arc<AtomicBool>,
    is_fatal: bool,
    together: bool,
}

#[service(interval = 5, needs = ["api"], discover = false)]
impl Sender {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let send = async |_: &service_core::database::Item<job::Entity>| -> Result<()> {
            match (self.is_away.load(Ordering::SeqCst), self.is_fatal) {
                (true, true) => Err(Error::fatal("no such address")),
                (true, false) => Err(Error::msg("connection refused")),
                (false, _) => Ok(()),
            }
        };
        if self.together {
            cx.claim::<job::Entity>(10).for_each(send).await
        } else {
            cx.claim_each::<job::Entity>(10).concurrency(2).for_each(send).await
        }
    }
}

/// A bed whose probe `api` fails while the API is away, checked every 10 s.
fn with_probe(bed: TestBed, is_away: &Arc<AtomicBool>) -> TestBed {
    let probed = is_away.clone();
    bed.with(move |builder| {
        builder.probe("api", Duration::from_secs(10), async move || match probed.load(Ordering::SeqCst) {
            true => Err("connection refused"),
            false => Ok(()),
        })
    })
}

async fn items_that_fail_during_an_outage_lose_no_attempt(bed: Bed) {
    let is_away = Arc::new(AtomicBool::new(true));
    let db = bed.db.clone();
    jobs(&db, 40).await;
    let bed = with_probe(bed.bed, &is_away);
    for together in [false, true] {
        bed.start(Sender { is_away: is_away.clone(), is_fatal: false, together }).await;
    }
    bed.run_for(Duration::from_secs(600)).await;
    let (most, failed) =
        (number(&db, "SELECT CAST(max(attempts) AS BIGINT) FROM job").await, number(&db, FAILED).await);
    assert!(most <= 1 && failed == 0, "an attempt counts until the probe has failed: {most} attempts, {failed} failed");
    is_away.store(false, Ordering::SeqCst);
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(number(&db, "SELECT count(*) FROM job WHERE status = 'completed'").await, 40);
}

async fn fatal_errors_are_those_of_the_rows_during_an_outage_too(bed: Bed) {
    let is_away = Arc::new(AtomicBool::new(true));
    let db = bed.db.clone();
    jobs(&db, 5).await;
    let bed = with_probe(bed.bed, &is_away);
    bed.start(Sender { is_away, is_fatal: true, together: false }).await;
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(number(&db, FAILED).await, 5);
}

async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
    let select = Statement::from_string(db.get_database_backend(), sql);
    db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

const FAILED: &str = "SELECT count(*) FROM job WHERE status = 'failed'";
