//! `max_concurrent_runs`: runs that wait for their turn.

use tokio::sync::Semaphore;

use super::*;
use crate::observe::health::{self, HealthStatus};
use crate::runtime::requests::PausedBy;

/// Two services that may run one at a time; each run takes 10 s. The first one begins.
async fn two(options: &Options) -> [Service; 2] {
    let turns = Arc::new(Semaphore::new(1));
    let start = || {
        let script = Script::new().update(async |_| {
            tokio::time::sleep(secs(10)).await;
            Ok(Outcome::idle())
        });
        let shared = Shared { turns: Some(turns.clone()), ..Shared::default() };
        let (service, supervisor) = script.begin(options.clone(), shared, Arc::new(NoExtension));
        service.spawn(supervisor)
    };
    let first = start();
    first.until(|state| state.status.in_run()).await;
    [first, start()]
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_turn_is_late_and_does_not_fail() {
    // The timeout is shorter than the wait and the run together.
    let [first, second] = two(&Options { timeout: Some(secs(15)), max_failures: 0, ..Options::default() }).await;
    tokio::time::sleep(secs(9)).await;
    assert!(first.inner.lock().status.in_run() && !second.inner.lock().status.in_run());
    let health = health::of(&second.inner, &second.services, &NoExtension);
    assert_eq!((health.status, health.state), (HealthStatus::Degraded, ServiceState::Running));
    let due = health.next_run.expect("it is due since it was built");
    assert_eq!(second.services.shared.clock.wall_now().duration_since(due).unwrap().as_secs(), 9);
    assert!(health.reason.unwrap().starts_with("waiting for its turn"));
    tokio::time::sleep(secs(2)).await;
    assert!(!first.inner.lock().status.in_run() && second.inner.lock().status.in_run());
    tokio::time::sleep(secs(589)).await;
    for service in [&first, &second] {
        let health = health::of(&service.inner, &service.services, &NoExtension);
        assert_eq!((health.error_count, health.failures), (0, 0));
        assert!((9..=11).contains(&health.runs), "{} runs in ten minutes", health.runs);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_paused_or_stopped_while_it_waits_takes_no_turn() {
    let [first, mut second] = two(&Options::default()).await;
    tokio::time::sleep(secs(5)).await;
    second.inner.request_pause(PausedBy::Handle).unwrap();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(second.inner.lock().status.stats.runs, 0);
    assert_eq!(first.inner.lock().status.stats.runs, 2, "the turn is free for the other one");
    second.inner.request_resume().unwrap();
    tokio::time::sleep(secs(1)).await;
    second.stop();
    assert_eq!(second.ended().await, Exit::Stopped);
    tokio::time::sleep(secs(120)).await;
    assert_eq!(first.inner.lock().status.stats.runs, 4);
}

#[tokio::test(start_paused = true)]
async fn a_requested_run_and_a_wake_up_are_not_lost_while_they_wait_for_their_turn() {
    let options = Options { schedule: Schedule::Interval(secs(3_600)), ..Options::default() };
    let [first, second] = two(&options).await;
    tokio::time::sleep(secs(30)).await;
    let runs = |service: &Service| service.inner.lock().status.stats.runs;
    for expected in [2, 3] {
        first.inner.request_run(None).unwrap();
        tokio::time::sleep(secs(1)).await;
        assert_eq!((runs(&first), runs(&second)), (expected, expected - 1), "the first one has the turn");
        match expected {
            2 => second.inner.request_run(None).unwrap(),
            _ => _ = second.inner.request_wake(),
        }
        tokio::time::sleep(secs(15)).await;
        assert_eq!(runs(&second), expected);
        tokio::time::sleep(secs(15)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_cleaned_up_while_it_waited_takes_no_turn() {
    let turns = Arc::new(Semaphore::new(1));
    let start = |cleanup: u64| {
        let script = Script::new()
            .update(async |_| {
                tokio::time::sleep(secs(10)).await;
                Ok(Outcome::idle())
            })
            .cleanup(move |_| async move {
                tokio::time::sleep(secs(cleanup)).await;
                Ok(())
            });
        let shared = Shared { turns: Some(turns.clone()), ..Shared::default() };
        let options = Options { drain_timeout: secs(600), ..Options::default() };
        let (service, supervisor) = script.begin(options, shared, Arc::new(NoExtension));
        service.spawn(supervisor)
    };
    let first = start(0);
    first.until(|state| state.status.in_run()).await;
    let (second, third) = (start(300), start(0));
    tokio::time::sleep(secs(5)).await;
    second.stop();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(second.state(), ServiceState::Draining);
    assert!(third.inner.lock().status.in_run(), "the turn is not that of the service that is cleaned up");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_no_longer_due_does_not_wait_for_its_turn() {
    let [_first, second] = two(&Options::default()).await;
    tokio::time::sleep(secs(61)).await;
    let reason = || health::of(&second.inner, &second.services, &NoExtension).reason;
    assert!(reason().unwrap().starts_with("waiting for its turn"));
    second.inner.update(|state| {
        let schedule = Schedule::Interval(secs(3_600));
        state.requests.options = Arc::new(Options { schedule, ..Options::default() });
        state.wake();
    });
    tokio::time::sleep(secs(1)).await;
    assert_eq!(reason(), None);
}
