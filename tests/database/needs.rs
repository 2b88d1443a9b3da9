//! Rows of a service while something is down that it names in `needs`: they lose no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbErr, RuntimeErr, Statement};
use service_core::ServiceOptions;
use service_core::database::Item;
use service_core::prelude::*;

use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs, more_jobs};

on_each! {
    items_that_fail_together_during_an_outage_lose_no_attempt,
    items_that_fail_one_by_one_during_an_outage_lose_no_attempt,
    rows_of_runs_that_fail_during_an_outage_lose_no_attempt,
    an_item_that_sets_its_wait_is_tried_again_after_it,
    fatal_errors_are_those_of_the_rows_during_an_outage_too,
    a_last_attempt_that_fails_before_the_probe_does_is_kept,
    a_last_attempt_that_fails_while_the_probe_succeeds_is_charged,
    an_item_that_began_in_an_outage_and_fails_after_it_loses_no_attempt,
    an_item_that_is_dropped_during_an_outage_loses_no_attempt,
    a_stop_does_not_wait_for_the_check_of_a_last_attempt,
    a_last_attempt_is_kept_while_the_check_does_not_answer,
    errors_of_another_database_cost_no_attempt_during_its_outage,
    the_end_of_an_outage_makes_a_run_due,
    the_end_of_an_outage_makes_a_run_due_after_a_retry_without_rows,
    the_end_of_an_outage_makes_a_run_due_after_a_run_without_a_claim,
    rows_that_fail_just_after_an_outage_are_claimed_at_once,
    an_item_that_never_is_to_be_tried_again_ends_no_run,
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
    /// How long a call takes that fails.
    takes: Duration,
    /// How long the items of a run may take, together.
    limit: Duration,
}

#[service(interval = 5, needs = ["api"], discover = false)]
impl Sender {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let send = async |_: &Item<job::Entity>| -> Result<()> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let is_away = self.is_away.load(Ordering::SeqCst);
            if is_away {
                tokio::time::sleep(self.takes).await;
                return Err((self.error)());
            }
            Ok(())
        };
        match self.way {
            Way::Together => {
                let all = cx.claim::<job::Entity>(10).for_each(send);
                tokio::time::timeout(self.limit, all).await.unwrap_or(Ok(Outcome::idle()))
            }
            Way::OneByOne => {
                let all = cx.claim_each::<job::Entity>(10).concurrency(2).for_each(send);
                tokio::time::timeout(self.limit, all).await.unwrap_or(Ok(Outcome::idle()))
            }
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

const WAYS: [Way; 3] = [Way::Together, Way::OneByOne, Way::Loop];
/// The statuses of rows that wait for their first attempt, or for their last one.
const NOT_TRIED: &str = "SELECT count(*) FROM job WHERE status = 'pending' AND attempts = 0";
const LAST_ATTEMPT_LEFT: &str = "SELECT count(*) FROM job WHERE status = 'pending' AND attempts = 2";
const COMPLETED: &str = "SELECT count(*) FROM job WHERE status = 'completed'";

fn refused() -> Error {
    Error::msg("connection refused")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sender(way: Way, error: fn() -> Error) -> Sender {
    let (takes, limit) = (Duration::ZERO, Duration::MAX);
    Sender { way, is_away: Arc::default(), calls: Arc::default(), error, takes, limit }
}

/// The bed with a probe of the API, which checks every 10 s.
fn probed(mut bed: Bed, sender: &Sender) -> Bed {
    let is_away = sender.is_away.clone();
    bed.bed = bed.bed.with(move |builder| {
        builder.probe("api", Duration::from_secs(10), async move || match is_away.load(Ordering::SeqCst) {
            true => Err("connection refused"),
            false => Ok(()),
        })
    });
    bed
}

/// Starts a service with so many rows, whose API is away.
async fn away(bed: Bed, rows: i64, way: Way, error: fn() -> Error) -> (Sender, Bed) {
    jobs(&bed.db, rows).await;
    let sender = sender(way, error);
    sender.is_away.store(true, Ordering::SeqCst);
    let bed = probed(bed, &sender);
    bed.bed.start(sender.clone()).await;
    (sender, bed)
}

/// The bed with another probe, which never answers while the API is away.
fn hanging(mut bed: Bed, sender: &Sender) -> Bed {
    let is_away = sender.is_away.clone();
    bed.bed = bed.bed.with(move |builder| {
        builder.probe("api", Duration::from_secs(600), async move || match is_away.load(Ordering::SeqCst) {
            true => std::future::pending().await,
            false => Ok::<(), Error>(()),
        })
    });
    bed
}

impl Bed {
    /// Removes the service with this id.
    async fn remove(&self, id: &str) {
        self.bed.services().await.unregister(id).await.unwrap();
    }

    /// Empties the table, and fills it with so many rows, each of which has one attempt left.
    async fn last_attempts(&self, rows: i64) {
        self.execute("DELETE FROM job").await;
        more_jobs(&self.db, 1..=rows).await;
        self.execute("UPDATE job SET attempts = 2").await;
    }
}

async fn no_attempt_is_lost(bed: Bed, way: Way) {
    let (sender, bed) = away(bed, 300, way, refused).await;
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

/// The probe last succeeded before the API went away.
async fn a_last_attempt_that_fails_before_the_probe_does_is_kept(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let bed = probed(bed, &sender);
    for way in WAYS {
        sender.way = way;
        bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(1)).await;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.last_attempts(30).await;
        bed.bed.run_for(seconds(60)).await;
        assert_eq!(bed.number(LAST_ATTEMPT_LEFT).await, 30);
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(60)).await;
        assert_eq!(bed.number(COMPLETED).await, 30);
        bed.remove("sender").await;
    }
}

async fn a_last_attempt_that_fails_while_the_probe_succeeds_is_charged(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let bed = probed(bed, &sender);
    // Another one than that of the probe.
    sender.is_away = Arc::new(AtomicBool::new(true));
    for way in WAYS {
        sender.way = way;
        bed.last_attempts(2).await;
        bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(20)).await;
        assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'failed'").await, 2);
        bed.remove("sender").await;
    }
}

async fn an_item_that_began_in_an_outage_and_fails_after_it_loses_no_attempt(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    sender.takes = seconds(25);
    let bed = probed(bed, &sender);
    for way in WAYS {
        sender.way = way;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.execute("DELETE FROM job").await;
        more_jobs(&bed.db, 1..=1).await;
        bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(12)).await;
        sender.is_away.store(false, Ordering::SeqCst);
        // The probe succeeds at 20 s, and the item fails at 25 s.
        bed.bed.run_for(seconds(30)).await;
        assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed' AND attempts = 1").await, 1);
        bed.remove("sender").await;
    }
}

/// The run itself succeeds.
async fn an_item_that_is_dropped_during_an_outage_loses_no_attempt(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    (sender.takes, sender.limit) = (seconds(1_000), seconds(4));
    let bed = probed(bed, &sender);
    let services = bed.bed.services().await;
    for way in [Way::Together, Way::OneByOne] {
        sender.way = way;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.last_attempts(3).await;
        let options = ServiceOptions::new().interval(seconds(86_400));
        services.register("sender", sender.clone()).options(options).start().await.unwrap();
        bed.bed.run_for(seconds(60)).await;
        assert_eq!(bed.number(LAST_ATTEMPT_LEFT).await, 3);
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(15)).await;
        assert_eq!(bed.number(COMPLETED).await, 3);
        bed.remove("sender").await;
    }
}

async fn a_stop_does_not_wait_for_the_check_of_a_last_attempt(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let bed = hanging(bed, &sender);
    for way in WAYS {
        sender.way = way;
        let service = bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(1)).await;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.last_attempts(1).await;
        // The item fails at 5 s, and then the probe is checked.
        bed.bed.run_for(seconds(5)).await;
        let began = tokio::time::Instant::now();
        service.stop().await.unwrap();
        assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
        assert_eq!(bed.number(LAST_ATTEMPT_LEFT).await, 1);
        sender.is_away.store(false, Ordering::SeqCst);
        bed.remove("sender").await;
        bed.bed.run_for(seconds(30)).await;
    }
}

async fn a_last_attempt_is_kept_while_the_check_does_not_answer(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let bed = hanging(bed, &sender);
    for way in WAYS {
        sender.way = way;
        bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(1)).await;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.last_attempts(3).await;
        bed.bed.run_for(seconds(60)).await;
        assert_eq!(bed.number(LAST_ATTEMPT_LEFT).await, 3);
        sender.is_away.store(false, Ordering::SeqCst);
        bed.remove("sender").await;
        bed.bed.run_for(seconds(1_200)).await;
    }
}

async fn errors_of_another_database_cost_no_attempt_during_its_outage(bed: Bed) {
    let lost = || Error::from(DbErr::Conn(RuntimeErr::Internal("the connection was refused".to_owned())));
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, lost);
    sender.is_away.store(true, Ordering::SeqCst);
    let bed = probed(bed, &sender);
    for way in WAYS {
        sender.way = way;
        bed.bed.run_for(seconds(10)).await;
        bed.execute("DELETE FROM job").await;
        more_jobs(&bed.db, 1..=3).await;
        bed.bed.start(sender.clone()).await;
        bed.bed.run_for(seconds(300)).await;
        assert_eq!(bed.number(NOT_TRIED).await, 3);
        bed.remove("sender").await;
    }
}

/// Without an interval that would make one due.
async fn the_end_of_an_outage_makes_a_run_due(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let bed = probed(bed, &sender);
    let services = bed.bed.services().await;
    for (way, rows) in WAYS.into_iter().flat_map(|way| [(way, 5), (way, 25)]) {
        sender.way = way;
        bed.execute("DELETE FROM job").await;
        more_jobs(&bed.db, 1..=rows).await;
        sender.is_away.store(true, Ordering::SeqCst);
        let options = ServiceOptions::new().interval(seconds(86_400));
        services.register("sender", sender.clone()).options(options).start().await.unwrap();
        bed.bed.run_for(seconds(600)).await;
        assert_eq!(bed.number(COMPLETED).await, 0);
        let calls = sender.calls.swap(0, Ordering::SeqCst);
        assert!(way == Way::Loop || calls <= 20, "the schedule paces the runs: {calls} calls");
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(15)).await;
        assert_eq!(bed.number(COMPLETED).await, rows);
        sender.calls.store(0, Ordering::SeqCst);
        bed.remove("sender").await;
    }
}

/// The retry leaves out the row of the failed run, finds no other, and succeeds.
async fn the_end_of_an_outage_makes_a_run_due_after_a_retry_without_rows(bed: Bed) {
    jobs(&bed.db, 1).await;
    let sender = sender(Way::Loop, refused);
    sender.is_away.store(true, Ordering::SeqCst);
    let bed = probed(bed, &sender);
    let options = ServiceOptions::new().interval(seconds(86_400)).retry_delay(seconds(2));
    let services = bed.bed.services().await;
    let service = services.register("sender", sender.clone()).options(options).start().await.unwrap();
    bed.bed.run_for(seconds(600)).await;
    assert_eq!(service.state(), ServiceState::Running, "the retry has succeeded");
    sender.is_away.store(false, Ordering::SeqCst);
    bed.bed.run_for(seconds(15)).await;
    assert_eq!(bed.number(COMPLETED).await, 1);
}

/// Claims rows only in some of its runs.
struct Sometimes {
    sender: Sender,
    claims: Arc<AtomicBool>,
}

#[service(interval = "1d", needs = ["api"], discover = false)]
impl Sometimes {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        match self.claims.load(Ordering::SeqCst) {
            true => self.sender.update(cx).await,
            false => Ok(Outcome::idle()),
        }
    }
}

async fn the_end_of_an_outage_makes_a_run_due_after_a_run_without_a_claim(bed: Bed) {
    jobs(&bed.db, 0).await;
    let mut sender = sender(Way::Together, refused);
    let claims = Arc::new(AtomicBool::new(true));
    let bed = probed(bed, &sender);
    let services = bed.bed.services().await;
    for way in WAYS {
        sender.way = way;
        bed.execute("DELETE FROM job").await;
        more_jobs(&bed.db, 1..=5).await;
        sender.is_away.store(true, Ordering::SeqCst);
        let sometimes = Sometimes { sender: sender.clone(), claims: claims.clone() };
        let service = services.register("sometimes", sometimes).start().await.unwrap();
        bed.bed.run_for(seconds(600)).await;
        claims.store(false, Ordering::SeqCst);
        service.run_now().await.unwrap();
        bed.bed.run_for(seconds(60)).await;
        claims.store(true, Ordering::SeqCst);
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(15)).await;
        assert_eq!(bed.number(COMPLETED).await, 5);
        // Nothing is left, so that the end of another outage makes no run due.
        let runs = service.health().runs;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.bed.run_for(seconds(60)).await;
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(60)).await;
        assert_eq!(service.health().runs, runs);
        bed.remove("sometimes").await;
    }
}

async fn rows_that_fail_just_after_an_outage_are_claimed_at_once(bed: Bed) {
    jobs(&bed.db, 1).await;
    let mut sender = sender(Way::Together, refused);
    sender.takes = seconds(25);
    let bed = probed(bed, &sender);
    let services = bed.bed.services().await;
    for way in WAYS {
        sender.way = way;
        sender.is_away.store(true, Ordering::SeqCst);
        bed.execute("UPDATE job SET status = 'pending'").await;
        let options = ServiceOptions::new().interval(seconds(86_400));
        services.register("sender", sender.clone()).options(options).start().await.unwrap();
        bed.bed.run_for(seconds(12)).await;
        sender.is_away.store(false, Ordering::SeqCst);
        bed.bed.run_for(seconds(45)).await;
        assert_eq!(bed.number(COMPLETED).await, 1);
        bed.remove("sender").await;
    }
}

async fn an_item_that_never_is_to_be_tried_again_ends_no_run(bed: Bed) {
    let never = || Error::retry_after(Duration::MAX, "not in this life");
    let (sender, bed) = away(bed, 2, Way::OneByOne, never).await;
    bed.bed.run_for(seconds(120)).await;
    let services = bed.bed.services().await;
    let health = services.get("sender").unwrap().health();
    assert_eq!((health.error_count, health.last_error), (0, None));
    assert!(sender.calls.load(Ordering::SeqCst) <= 4);
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'pending'").await, 2);
}

/// Uses the transaction of its item, whose connection then breaks, and fails with the error of the API.
#[derive(Clone)]
struct Interrupted {
    /// It uses the transaction again, and so finds that its connection is broken.
    uses_again: bool,
}

#[service(interval = 15, retry_delay = 15, needs = ["api"], discover = false)]
impl Interrupted {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let send = async |item: &Item<job::Entity>| -> Result<()> {
            let own = Statement::from_string(item.tx().get_database_backend(), "SELECT pg_backend_pid() AS pid");
            let pid: i32 = item.tx().query_one_raw(own).await?.unwrap().try_get("", "pid")?;
            cx.db()?.execute_unprepared(&format!("SELECT pg_terminate_backend({pid}, 5000)")).await?;
            if self.uses_again {
                let _ = item.tx().execute_unprepared("SELECT 1").await;
            }
            Err(refused())
        };
        cx.claim::<job::Entity>(10).for_each(send).await
    }
}

/// As with a limit on the time of idle transactions.
#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_during_an_outage_costs_no_attempt() {
    let Some(bed) = Bed::postgres().await else { return };
    jobs(&bed.db, 0).await;
    let sender = sender(Way::Together, refused);
    sender.is_away.store(true, Ordering::SeqCst);
    let bed = probed(bed, &sender);
    bed.bed.services().await;
    bed.bed.run_for(seconds(1)).await;
    for uses_again in [false, true] {
        bed.execute("DELETE FROM job").await;
        more_jobs(&bed.db, 1..=1).await;
        let service = bed.bed.start(Interrupted { uses_again }).await;
        bed.bed.run_for(seconds(300)).await;
        assert_eq!(bed.number(NOT_TRIED).await, 1, "{uses_again}: {:?}", service.health().last_error);
        bed.remove("interrupted").await;
    }
}
