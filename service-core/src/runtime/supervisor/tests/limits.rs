//! Every limit applies, also to futures that are always ready; and work that ends in time is not cancelled.

use std::sync::mpsc;

use tokio::time::Instant;

use super::*;
use crate::schedule::later;

fn options() -> Options {
    Options { drain_timeout: ms(20), max_failures: 0, ..Options::default() }
}

#[test]
fn a_busy_run_meets_its_timeout() {
    on_each_runtime(|| async {
        let script = Script::new().update(async |_| {
            busy().await;
            Ok(Outcome::idle())
        });
        let mut service = script.start(Options { timeout: Some(ms(20)), ..options() });
        assert_eq!(service.ended().await, Exit::Failed);
        assert_eq!(service.log.lines(), ["built 1", "run 1", "failure 1", "cleanup 1", "dropped 1"]);
    });
}

#[test]
fn a_busy_run_meets_the_drain_timeout() {
    on_each_runtime(|| async {
        let script = Script::new().update(async |_| {
            busy().await;
            Ok(Outcome::idle())
        });
        let mut service = script.start(options());
        service.until(|state| state.status.in_run()).await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert_eq!(service.log.lines(), ["built 1", "run 1", "cleanup 1", "dropped 1"]);
    });
}

#[test]
fn a_busy_configure_meets_the_drain_timeout() {
    on_each_runtime(|| async {
        let script = Script::new().configure(async |_| {
            busy().await;
            Ok(())
        });
        let mut service = script.start(options());
        tokio::task::yield_now().await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert!(service.log.lines().is_empty());
    });
}

#[test]
fn a_busy_cleanup_meets_the_drain_timeout() {
    on_each_runtime(|| async {
        let script = Script::new().cleanup(async |_| {
            busy().await;
            Ok(())
        });
        let mut service = script.start(options());
        service.started().await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        service.log.assert_one_cleanup_each();
    });
}

#[test]
fn a_busy_cleanup_between_two_instances_meets_the_drain_timeout() {
    on_each_runtime(|| async {
        let script =
            Script::new().update(async |cx| if cx.run == 1 { panic!("scripted") } else { Ok(Outcome::idle()) });
        let script = script.cleanup(async |cx| {
            if cx.run == 1 {
                busy().await;
            }
            Ok(())
        });
        let mut service = script.start(Options { max_failures: 1, retry_delay: Duration::ZERO, ..options() });
        service.until(|state| state.status.stats.runs == 2).await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        service.log.assert_one_cleanup_each();
    });
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_exactly_at_its_timeout_is_not_cancelled() {
    let script = Script::new().update(async |_| {
        tokio::time::sleep(secs(10)).await;
        Ok(Outcome::processed(1))
    });
    let mut service = script.start(Options { timeout: Some(secs(10)), ..options() });
    service.until(|state| state.status.stats.processed == 1).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_run_a_millisecond_longer_than_its_timeout_is_cancelled_at_the_timeout() {
    let script = Script::new().update(async |_| {
        tokio::time::sleep(ms(10_001)).await;
        Ok(Outcome::idle())
    });
    let begun = Instant::now();
    let mut service = script.start(Options { timeout: Some(secs(10)), ..options() });
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(begun.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_exactly_at_the_drain_timeout_is_not_aborted() {
    let script = Script::new().update(async |_| {
        tokio::time::sleep(secs(10)).await;
        Ok(Outcome::processed(1))
    });
    let mut service = script.start(Options { drain_timeout: secs(6), ..options() });
    service.until(|state| state.status.in_run()).await;
    tokio::time::sleep(secs(4)).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(service.inner.lock().status.stats.processed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_ends_exactly_at_the_drain_timeout_is_not_aborted() {
    let log = Log::default();
    let ended = log.clone();
    let script = Script::new().cleanup(move |_| {
        let ended = ended.clone();
        async move {
            tokio::time::sleep(secs(6)).await;
            ended.push("ended");
            Ok(())
        }
    });
    let mut service = script.start(Options { drain_timeout: secs(6), ..options() });
    service.started().await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(log.lines(), ["ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_at_the_moment_of_the_timeout_counts_as_a_stop() {
    let mut service = Script::new().update(async |_| std::future::pending().await).start(Options {
        timeout: Some(secs(10)),
        drain_timeout: secs(4),
        ..options()
    });
    service.until(|state| state.status.in_run()).await;
    tokio::time::sleep(secs(6)).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(service.log.count("failure 1"), 0, "`on_failure` is not called for an aborted run");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_before_the_end_of_the_drain_is_a_failure_and_the_service_stops() {
    let mut service = Script::new().update(async |_| std::future::pending().await).start(Options {
        timeout: Some(secs(10)),
        drain_timeout: secs(60),
        ..options()
    });
    let begun = Instant::now();
    service.until(|state| state.status.in_run()).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(begun.elapsed(), secs(10));
    assert_eq!(service.log.lines(), ["built 1", "run 1", "failure 1", "cleanup 1", "dropped 1"]);
}

/// A blocking run returns after the end of its service. The next incarnation has begun when its instance is cleaned up.
#[tokio::test(start_paused = true)]
async fn the_late_cleanup_of_an_earlier_incarnation_is_not_shortened_by_the_stop_of_the_next() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let log = Log::default();
    let ended = log.clone();
    let script = Script::new().update_blocking(move |cx| {
        if cx.run == 1 {
            let _ = released.lock().recv();
        }
        Ok(Outcome::idle())
    });
    let script = script.cleanup(move |cx| {
        let ended = ended.clone();
        async move {
            if cx.incarnation == 1 {
                tokio::time::sleep(secs(3)).await;
                ended.push("cleaned up");
            }
            Ok(())
        }
    });
    let mut service = script.start(Options { drain_timeout: secs(4), ..options() });
    service.begun().await;
    service.stop();
    // During a blocking run the test advances the clock: by one limit for the run, and another for the instance.
    advance_until(secs(9), || service.state() == ServiceState::Stopped).await;
    service = service.start_again();
    service.until(|state| state.status.stats.runs == 2).await;
    drop(release);
    while service.log.count("cleanup 1") == 0 {
        tokio::task::yield_now().await;
    }
    let now = Some(Instant::now());
    service.inner.request_stop(StopRequest { run: now, cleanup: now, ..StopRequest::default() });
    assert_eq!(service.ended().await, Exit::Stopped);
    assert!(log.lines().is_empty());
    tokio::time::sleep(secs(4)).await;
    assert_eq!(log.lines(), ["cleaned up"]);
    service.log.assert_one_cleanup_each();
}

/// While all threads of the pool are in use, a run waits for one. The stop or `timeout` cancels it before it gets one.
#[test]
fn a_blocking_run_that_gets_a_thread_after_its_time_does_not_begin() {
    let mut builder = Builder::new_current_thread();
    let runtime =
        builder.max_blocking_threads(1).enable_all().start_paused(true).build().expect("a runtime can be built");
    runtime.block_on(async {
        for is_stopped in [true, false] {
            let (release, released) = mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || released.recv());
            let script = Script::new().update_blocking(|_| Ok(Outcome::idle()));
            let limits = Options { timeout: Some(secs(2)), drain_timeout: secs(1), ..options() };
            let mut service = script.start(Options { max_failures: 1, retry_delay: secs(1), ..limits });
            service.until(|state| state.status.in_run()).await;
            if is_stopped {
                service.stop();
                advance_until(secs(3), || service.state() == ServiceState::Stopped).await;
                assert_eq!(service.ended().await, Exit::Stopped);
                drop(release);
                service.until(|_| service.log.count("dropped 1") == 1).await;
                assert_eq!(service.log.lines(), ["built 1", "cleanup 1", "dropped 1"]);
            } else {
                advance_until(secs(3), || service.inner.lock().status.stats.errors == 1).await;
                drop(release);
                service.until(|_| service.log.count("run 2") == 1).await;
                assert_eq!(service.log.lines(), ["built 1", "run 2"]);
                service.stop();
                assert_eq!(service.ended().await, Exit::Stopped);
            }
            let _ = occupied.await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_that_has_timed_out_may_stop_its_service() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let script = Script::new().update_blocking(move |cx| {
        let _ = released.lock().recv();
        cx.stop();
        Ok(Outcome::idle())
    });
    let limits = Options { timeout: Some(secs(1)), max_failures: 1, retry_delay: secs(3600), ..Options::default() };
    let mut service = script.start(limits);
    service.begun().await;
    advance_until(secs(2), || service.inner.lock().status.stats.errors == 1).await;
    drop(release);
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!((service.log.count("run 1"), service.log.count("run 2")), (1, 0), "{:?}", service.log.lines());
    service.log.assert_one_cleanup_each();
}

/// Advances a clock that does not advance by itself.
async fn advance_until(within: Duration, reached: impl Fn() -> bool) {
    let end = later(Instant::now(), within);
    while !reached() {
        assert!(Instant::now() <= end, "not true in time");
        tokio::time::advance(ms(100)).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}
