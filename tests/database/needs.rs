//! Rows of a service while something is down that it names in `needs`: they lose no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use service_core::database::Item;
use service_core::prelude::*;

use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs};

on_each! {
    items_that_fail_together_during_an_outage_lose_no_attempt,
    items_that_fail_one_by_one_during_an_outage_lose_no_attempt,
    rows_of_runs_that_fail_during_an_outage_lose_no_attempt,
    an_item_that_sets_its_wait_is_tried_again_after_it,
    fatal_errors_are_those_of_the_rows_during_an_outage_too,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Together,
    OneByOne,
    /// The run fails with its first item.
    Loop,
}

/// Sends each row to an API, which may be away.
#[derive(Clone)]
struct Sender {
    way: Way,
    is_away: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    error: fn() -> Error,
}

#[service(interval = 5, needs = ["api"], discover = false)]
impl Sender {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let send = async |_: &Item<job::Entity>| -> Result<()> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            if self.is_away.load(Ordering::SeqCst) { Err((self.error)()) } else { Ok(()) }
        };
        match self.way {
            Way::Together => cx.claim::<job::Entity>(10).for_each(send).await,
            Way::OneByOne => cx.claim_each::<job::Entity>(10).concurrency(2).for_each(send).await,
            Way::Loop => {
                let mut batch = cx.claim_each::<job::Entity>(10).await?;
                while let Some(item) = batch.next().await? {
                    send(&item).await?;
                    item.settle(Ok::<_, Error>(())).await?;
                }
                batch.commit().await
            }
        }
    }
}

/// Starts a service with so many rows, whose API is away. A probe checks it every 10 s.
async fn away(mut bed: Bed, rows: i64, way: Way, error: fn() -> Error) -> (Sender, Bed) {
    jobs(&bed.db, rows).await;
    let sender = Sender { way, is_away: Arc::new(AtomicBool::new(true)), calls: Arc::default(), error };
    let probed = sender.is_away.clone();
    bed.bed = bed.bed.with(move |builder| {
        builder.probe("api", Duration::from_secs(10), async move || match probed.load(Ordering::SeqCst) {
            true => Err("connection refused"),
            false => Ok(()),
        })
    });
    bed.bed.start(sender.clone()).await;
    (sender, bed)
}

async fn no_attempt_is_lost(bed: Bed, way: Way) {
    let (sender, bed) = away(bed, 300, way, || Error::msg("connection refused")).await;
    bed.bed.run_for(Duration::from_secs(600)).await;
    let most = bed.number("SELECT CAST(max(attempts) AS BIGINT) FROM job").await;
    assert!(most <= 1, "an attempt counts until the probe has failed: {most}");
    let calls = sender.calls.load(Ordering::SeqCst);
    assert!(calls <= 121 * 10, "the interval paces the runs: {calls} calls");
    sender.is_away.store(false, Ordering::SeqCst);
    bed.bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed'").await, 300);
}

async fn items_that_fail_together_during_an_outage_lose_no_attempt(bed: Bed) {
    no_attempt_is_lost(bed, Way::Together).await;
}

async fn items_that_fail_one_by_one_during_an_outage_lose_no_attempt(bed: Bed) {
    no_attempt_is_lost(bed, Way::OneByOne).await;
}

async fn rows_of_runs_that_fail_during_an_outage_lose_no_attempt(bed: Bed) {
    no_attempt_is_lost(bed, Way::Loop).await;
}

async fn an_item_that_sets_its_wait_is_tried_again_after_it(bed: Bed) {
    let busy = || Error::retry_after(Duration::from_secs(300), "try again in five minutes");
    let (sender, bed) = away(bed, 5, Way::OneByOne, busy).await;
    bed.bed.run_for(Duration::from_secs(590)).await;
    assert!(sender.calls.load(Ordering::SeqCst) <= 2 * 5, "{} calls", sender.calls.load(Ordering::SeqCst));
}

async fn fatal_errors_are_those_of_the_rows_during_an_outage_too(bed: Bed) {
    let (_sender, bed) = away(bed, 5, Way::OneByOne, || Error::fatal("no such address")).await;
    bed.bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'failed'").await, 5);
}
