//! What follows repeated failures: retries without limit, runs that are given up, fresh instances, and what health
//! says.

use super::*;
use crate::config::options::{Exhausted, UNLIMITED};
use crate::observe::health::{self, HealthStatus, ServiceHealth};
use crate::schedule::{CatchUp, CronSchedule};

/// Fails as long as the flag is set, and logs when each run begins, in seconds since the start.
fn failing_while(flag: &Arc<AtomicUsize>) -> Script {
    let (flag, begun) = (flag.clone(), tokio::time::Instant::now());
    let script = Script::new();
    let log = script.log.clone();
    script.update(move |_| {
        log.push(format!("at {}", begun.elapsed().as_secs()));
        let fails = flag.load(Ordering::SeqCst) > 0;
        async move { if fails { super::fails() } else { Ok(Outcome::idle()) } }
    })
}

fn times(service: &Service) -> Vec<u64> {
    service.log.lines().iter().filter_map(|line| line.strip_prefix("at ")?.parse().ok()).collect()
}

fn health(service: &Service) -> ServiceHealth {
    health::of(&service.inner, &service.services, &NoExtension)
}

fn next_run() -> Options {
    Options {
        schedule: Schedule::Interval(secs(60)),
        max_failures: 2,
        exhausted: Some(Exhausted::NextRun),
        retry_delay: secs(5),
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_given_up_is_followed_by_the_next_regular_run() {
    let away = Arc::new(AtomicUsize::new(1));
    let service = failing_while(&away).start(next_run());
    tokio::time::sleep(secs(30)).await;
    assert_eq!(times(&service), [0, 5, 10]);
    assert_eq!(service.state(), ServiceState::Running);
    let health_now = health(&service);
    assert_eq!((health_now.status, health_now.failures), (HealthStatus::Unhealthy, 3));
    let reason = health_now.reason.unwrap();
    assert_eq!(reason, "gave up after 3 failures in a row, waiting for the next run; no success yet: it failed");

    tokio::time::sleep(secs(60)).await;
    assert_eq!(times(&service), [0, 5, 10, 60, 65, 70], "the next run has as many retries");
    assert_eq!(health(&service).status, HealthStatus::Unhealthy);

    away.store(0, Ordering::SeqCst);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(times(&service).last(), Some(&120));
    let health = health(&service);
    assert_eq!((health.status, health.failures, health.reason), (HealthStatus::Healthy, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_a_run_that_was_given_up_is_unhealthy_until_the_success() {
    let away = Arc::new(AtomicUsize::new(1));
    let service = failing_while(&away).start(next_run());
    tokio::time::sleep(secs(62)).await;
    let health = health(&service);
    assert_eq!((health.state, health.status, health.failures), (ServiceState::BackingOff, HealthStatus::Unhealthy, 1));
    assert_eq!(
        health.reason.as_deref(),
        Some("backing off after failure 1 of 2, retrying in 3 s; no success yet: it failed")
    );
}

#[tokio::test(start_paused = true)]
async fn a_configure_that_fails_is_given_up_too() {
    let away = Arc::new(AtomicUsize::new(1));
    let (flag, script) = (away.clone(), Script::new());
    let log = script.log.clone();
    let script = script.configure(move |_| {
        log.push("configure");
        let fails = flag.load(Ordering::SeqCst) > 0;
        async move { if fails { Err(Error::msg("no disk")) } else { Ok(()) } }
    });
    let service = script.start(next_run());
    tokio::time::sleep(secs(30)).await;
    assert_eq!(service.log.count("configure"), 3);
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(health(&service).status, HealthStatus::Unhealthy);
    assert!(!service.inner.lock().status.is_ready(), "services that depend on it still wait");

    away.store(0, Ordering::SeqCst);
    tokio::time::sleep(secs(40)).await;
    assert_eq!(service.log.lines().last().unwrap(), "run 1", "the run that was due follows at once");
    assert!(service.inner.lock().status.is_ready());
    assert_eq!(service.inner.lock().status.stats.runs, 1);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(service.inner.lock().status.stats.runs, 2);
}

#[tokio::test(start_paused = true)]
async fn fatal_errors_and_the_end_of_a_ready_made_instance_still_fail_the_service() {
    let mut service = Script::new().update(async |_| Err(Error::fatal("hopeless"))).start(next_run());
    assert_eq!(service.ended().await, Exit::Failed);
    let mut service = Script::new().update(async |_| fails()).on_failure(|_| Recovery::Fail).start(next_run());
    assert_eq!(service.ended().await, Exit::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_cron_service_gives_up_by_default_and_an_interval_service_fails() {
    let cron = CronSchedule { expression: "0 3 * * *".to_owned(), timezone: "UTC".to_owned(), catch_up: CatchUp::None };
    assert_eq!(Options { schedule: Schedule::Cron(cron), ..Options::default() }.exhausted(), Exhausted::NextRun);
    assert_eq!(Options::default().exhausted(), Exhausted::Fail);
}

#[tokio::test(start_paused = true)]
async fn any_number_of_failures_is_retried_where_they_are_unlimited() {
    let away = Arc::new(AtomicUsize::new(1));
    let options = Options { max_failures: UNLIMITED, retry_delay: secs(1), ..Options::default() };
    let service = failing_while(&away).start(options);
    tokio::time::sleep(ms(5_000_500)).await;
    let health = health(&service);
    assert_eq!((health.failures, health.max_failures), (5_001, None));
    assert_eq!(
        health.reason.as_deref(),
        Some("backing off after failure 5001, retrying in 500 ms; no success yet: it failed")
    );
    assert_eq!(service.state(), ServiceState::BackingOff);
}

#[tokio::test(start_paused = true)]
async fn rebuild_retries_with_a_fresh_instance() {
    let script = Script::new().on_failure(|_| Recovery::Rebuild);
    let service = script
        .update(async |cx| if cx.run_number() == 1 { fails() } else { Ok(Outcome::idle()) })
        .start(Options { retry_delay: secs(5), ..Options::default() });
    tokio::time::sleep(secs(4)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    assert_eq!(service.log.lines(), ["built 1", "run 1", "failure 1", "cleanup 1", "dropped 1"]);
    tokio::time::sleep(secs(2)).await;
    assert_eq!(service.log.lines()[5..], ["built 2", "run 2"]);
}

#[tokio::test(start_paused = true)]
async fn rebuild_counts_and_is_limited_as_a_retry_is() {
    let options = Options { max_failures: 2, retry_delay: secs(1), ..Options::default() };
    let mut service = Script::new().update(async |_| fails()).on_failure(|_| Recovery::Rebuild).start(options);
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(service.log.count("built 3"), 1);
    assert_eq!(service.log.count("built 4"), 0);
    service.log.assert_one_cleanup_each();
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_failures_are_ignored_is_degraded_from_the_second_one_on() {
    let away = Arc::new(AtomicUsize::new(0));
    let service = failing_while(&away).on_failure(|_| Recovery::Ignore).start(Options::default());
    tokio::time::sleep(secs(30)).await;
    away.store(1, Ordering::SeqCst);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(health(&service).status, HealthStatus::Healthy, "one failure may happen");
    tokio::time::sleep(secs(60)).await;
    let found = health(&service);
    assert_eq!((found.status, found.failures), (HealthStatus::Degraded, 0));
    assert_eq!(found.reason.as_deref(), Some("2 failures in a row; last success 2 min 30 s ago: it failed"));
    away.store(0, Ordering::SeqCst);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(health(&service).status, HealthStatus::Healthy);
}

/// Logs when an instance is built, in seconds since the start; the first `failing` attempts fail.
fn hard_to_build(failing: usize) -> Script {
    let (begun, attempts) = (tokio::time::Instant::now(), Arc::new(AtomicUsize::new(0)));
    let script = Script::new();
    let log = script.log.clone();
    script.configure(move |_| {
        log.push(format!("at {}", begun.elapsed().as_secs()));
        let fails = attempts.fetch_add(1, Ordering::SeqCst) < failing;
        async move { if fails { super::fails().map(|_| ()) } else { Ok(()) } }
    })
}

#[tokio::test(start_paused = true)]
async fn the_initial_delay_goes_on_when_the_first_instance_cannot_be_built() {
    let every = secs(60);
    let table = [
        (Schedule::Interval(every), 0, [0, 5, 10, 60]),
        (Schedule::Interval(every), 100, [0, 5, 10, 100]),
        (Schedule::Delay(every), 0, [0, 5, 10, 70]),
        (Schedule::Delay(every), 100, [0, 5, 10, 100]),
    ];
    for (schedule, initial_delay, expected) in table {
        let options = Options { schedule: schedule.clone(), initial_delay: secs(initial_delay), ..next_run() };
        let service = hard_to_build(3).start(options);
        tokio::time::sleep(secs(110)).await;
        assert_eq!(times(&service), expected, "{schedule:?}, {initial_delay}");
        assert_eq!(service.log.count("run 1"), 1, "it runs as soon as its instance is built");
    }
}
