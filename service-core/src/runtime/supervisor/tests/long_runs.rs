//! Services with `run`: what ends a run, what follows, and what its code reports meanwhile.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::observe::health::{self, HealthStatus, ServiceHealth};
use crate::runtime::requests::{PausedBy, Rebuild};
use crate::schedule::{LongRun, OnEnd, Readiness};

fn health(service: &Service) -> ServiceHealth {
    health::of(&service.inner, &service.services, &NoExtension)
}

fn options(long: LongRun) -> Options {
    Options {
        schedule: Schedule::LongRun(long),
        max_failures: 2,
        retry_delay: secs(5),
        drain_timeout: secs(10),
        ..Options::default()
    }
}

/// Runs until a stop is requested.
fn listener() -> Script {
    Script::new().update(async |cx| {
        cx.stopping().await;
        Ok(Outcome::idle())
    })
}

/// Each run lives for this long, then the peer hangs up.
fn hangs_up_after(life: Duration) -> Script {
    Script::new().update(move |cx| async move {
        match cx.unless_stopping(tokio::time::sleep(life)).await {
            Some(()) => Err(Error::msg("the peer hung up")),
            None => Ok(Outcome::idle()),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_run_continues_until_the_stop_and_its_return_is_no_failure() {
    let mut service = listener().start(options(LongRun::default()));
    tokio::time::sleep(secs(86_400)).await;
    let found = health(&service);
    assert_eq!((found.state, found.status, found.reason), (ServiceState::Running, HealthStatus::Healthy, None));
    assert_eq!((found.runs, found.next_run), (1, None), "never stuck, never overdue");
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(service.log.lines(), ["built 1", "run 1", "cleanup 1", "dropped 1"]);
    assert_eq!(health(&service).error_count, 0);

    let script = Script::new().update(async |cx| {
        cx.stopping().await;
        fails()
    });
    let mut service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(health(&service).error_count, 0, "an error after the stop is not a failure");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_once_a_day_never_exhausts_the_service() {
    let service = hangs_up_after(secs(86_400)).start(options(LongRun::default()));
    tokio::time::sleep(secs(30 * 86_400)).await;
    let found = health(&service);
    assert_eq!((found.state, found.status), (ServiceState::Running, HealthStatus::Healthy));
    assert_eq!(found.error_count, 29);
    assert!(found.last_success.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_at_once_meets_the_backoff() {
    let script = Script::new().update(async |cx| {
        cx.ready();
        Err(Error::msg("the peer hung up"))
    });
    let options = Options { retry_backoff: 2.0, ..options(LongRun::default()) };
    let begun = tokio::time::Instant::now();
    let mut service = script.start(options);
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(begun.elapsed(), secs(15), "5 s and 10 s: `ready` does not set the count to 0");
}

#[tokio::test(start_paused = true)]
async fn failures_are_no_longer_counted_once_the_run_is_stable() {
    let flag = Arc::new(AtomicUsize::new(1));
    let tries = flag.clone();
    let script = Script::new().update(move |cx| {
        let fails_now = tries.fetch_add(1, Ordering::SeqCst) == 1;
        async move {
            if fails_now {
                return fails();
            }
            cx.stopping().await;
            Ok(Outcome::idle())
        }
    });
    let service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(30)).await;
    let found = health(&service);
    assert_eq!((found.failures, found.status), (1, HealthStatus::Degraded));
    assert_eq!(found.reason.as_deref(), Some("retrying after failure 1 of 2: it failed"));
    tokio::time::sleep(secs(40)).await;
    let found = health(&service);
    assert_eq!((found.failures, found.status), (0, HealthStatus::Healthy));
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_stop_is_followed_by_what_on_end_says() {
    let start = |on_end| Script::new().start(options(LongRun { on_end, ..LongRun::default() }));

    let mut service = start(OnEnd::Stop);
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!((health(&service).status, health(&service).runs), (HealthStatus::Healthy, 1));

    let service = start(OnEnd::Again);
    tokio::time::sleep(ms(22_500)).await;
    let found = health(&service);
    assert_eq!((found.runs, found.failures, found.error_count), (5, 0, 0), "every 5 s, which is `retry_delay`");
    assert_eq!(service.log.count("built 2"), 0);

    let mut service = start(OnEnd::Shutdown);
    let run = service.run.take().unwrap();
    assert_eq!(within_a_day(run).await.unwrap(), Exit::Shutdown);
    assert_eq!((service.state(), health(&service).status), (ServiceState::Stopped, HealthStatus::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_run_without_progress_is_cancelled_as_a_timeout() {
    let long = LongRun { idle_timeout: Some(secs(120)), ..LongRun::default() };
    let script = Script::new().update(async |cx| {
        for report in 0..4 {
            tokio::time::sleep(secs(100)).await;
            match report {
                0 => cx.ready(),
                1 => cx.heartbeat(),
                2 => cx.processed(1),
                _ => cx.failed(1),
            }
        }
        std::future::pending().await
    });
    let service = script.on_failure(|failure| {
        assert_eq!(failure.kind(), crate::service::failure::FailureKind::Timeout);
        assert_eq!(failure.error().to_string(), "the run reported no progress for its `idle_timeout` of 2m");
        Recovery::Retry
    });
    let service = service.start(options(long));
    tokio::time::sleep(secs(519)).await;
    assert_eq!(health(&service).error_count, 0);
    assert_eq!((health(&service).total_processed, health(&service).total_failed), (1, 1), "at once");
    tokio::time::sleep(secs(2)).await;
    let found = health(&service);
    assert_eq!((found.error_count, found.state), (1, ServiceState::BackingOff));
    assert_eq!((found.total_processed, found.total_failed), (1, 1));
    assert_eq!(service.log.count("failure 1"), 1);
}

#[tokio::test(start_paused = true)]
async fn with_explicit_readiness_the_service_starts_until_it_is_ready() {
    let long = LongRun { readiness: Readiness::Explicit, ..LongRun::default() };
    let script = Script::new().update(async |cx| {
        tokio::time::sleep(secs(10)).await;
        cx.ready();
        cx.stopping().await;
        Ok(Outcome::idle())
    });
    let service = script.start(options(long));
    tokio::time::sleep(secs(9)).await;
    assert_eq!(service.state(), ServiceState::Starting);
    assert!(!service.inner.lock().status.is_start_resolved());
    tokio::time::sleep(secs(2)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert!(service.inner.lock().status.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_the_start_and_later_runs_do_not_return_to_it() {
    let long = LongRun { readiness: Readiness::Explicit, ..LongRun::default() };
    let script = Script::new().update(async |cx| {
        tokio::time::sleep(secs(1)).await;
        if cx.run_number() < 3 {
            return fails();
        }
        tokio::time::sleep(secs(200)).await;
        cx.ready();
        cx.stopping().await;
        Ok(Outcome::idle())
    });
    let service = script.start(options(long));
    tokio::time::sleep(secs(2)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    assert!(service.inner.lock().status.is_start_resolved(), "the caller of `start` waits no longer");
    for _ in 0..19 {
        tokio::time::sleep(secs(10)).await;
        assert_ne!(service.state(), ServiceState::Starting);
        assert!(!service.inner.lock().status.is_ready(), "services that depend on it still wait");
    }
    tokio::time::sleep(secs(100)).await;
    assert!(service.inner.lock().status.is_ready());
}

#[tokio::test(start_paused = true)]
async fn failures_before_the_run_is_ready_count_also_if_they_replace_the_instance() {
    let long = LongRun { readiness: Readiness::Explicit, ..LongRun::default() };
    let script = Script::new().update(async |_| panic!("before it is ready"));
    let options = Options { retry_backoff: 2.0, ..options(long) };
    let begun = tokio::time::Instant::now();
    let mut service = script.start(options);
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!((begun.elapsed(), service.log.count("built 3")), (secs(15), 1), "5 s and 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_the_run_and_keeps_the_instance() {
    let service = listener().start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.request_pause(PausedBy::Handle).unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    assert!(!service.inner.lock().status.in_run());
    tokio::time::sleep(secs(3600)).await;
    service.inner.request_resume().unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(service.log.lines(), ["built 1", "run 1", "run 2"]);
    assert_eq!(health(&service).error_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ignores_a_pause_is_cancelled_and_that_is_no_failure() {
    let service = Script::new().update(async |_| std::future::pending().await).start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.request_pause(PausedBy::Handle).unwrap();
    tokio::time::sleep(secs(9)).await;
    assert!(service.inner.lock().status.in_run());
    tokio::time::sleep(secs(2)).await;
    assert!(!service.inner.lock().status.in_run());
    let found = health(&service);
    assert_eq!((found.state, found.error_count, found.failures), (ServiceState::Paused, 0, 0));
    assert_eq!(service.log.lines(), ["built 1", "run 1"], "the instance is kept");
}

#[tokio::test(start_paused = true)]
async fn changed_settings_end_the_run_and_a_fresh_instance_follows() {
    let service = listener().start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.lock().request_rebuild(Rebuild::Settings);
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.log.lines(), ["built 1", "run 1", "cleanup 1", "dropped 1", "built 2", "run 2"]);
    assert_eq!((health(&service).error_count, service.state()), (0, ServiceState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_run_on_request_is_refused() {
    let service = listener().start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    let error = service.inner.request_run(None).unwrap_err().to_string();
    assert!(error.starts_with("cannot run service `job`: its `run` continues until a stop is requested"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reported_restriction_lasts_until_the_run_is_ready_again() {
    let script = Script::new().update(async |cx| {
        cx.degraded("connecting again");
        tokio::time::sleep(secs(10)).await;
        cx.ready();
        cx.stopping().await;
        Ok(Outcome::idle())
    });
    let service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(5)).await;
    assert_eq!(health(&service).reason.as_deref(), Some("connecting again"));
    tokio::time::sleep(secs(10)).await;
    assert_eq!(health(&service).status, HealthStatus::Healthy);
}

#[tokio::test(start_paused = true)]
async fn the_context_of_a_run_ends_with_the_run() {
    let seen = Arc::new(Mutex::new(None));
    let kept = seen.clone();
    let script = Script::new().update(move |cx| {
        let kept = kept.clone();
        async move {
            if cx.run_number() == 1 {
                *kept.lock() = Some(cx);
                return fails();
            }
            cx.stopping().await;
            Ok(Outcome::idle())
        }
    });
    let service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(10)).await;
    assert_eq!(service.state(), ServiceState::Running);
    let first = seen.lock().take().unwrap();
    assert!(first.is_stopping(), "its run is over, although the service runs");
    within_a_day(first.stopping()).await;
}

/// Blocks like a read from a socket, until it is closed.
fn blocking_reader(closed: &Arc<AtomicBool>, thread: &Arc<Mutex<Option<String>>>) -> Script {
    let (closed, thread) = (closed.clone(), thread.clone());
    Script::new().update_blocking(move |cx| {
        *thread.lock() = std::thread::current().name().map(str::to_owned);
        let close = closed.clone();
        cx.on_stop(move || close.store(true, Ordering::SeqCst));
        while !closed.load(Ordering::SeqCst) {
            std::thread::sleep(ms(1));
        }
        Ok(Outcome::idle())
    })
}

/// Real time: threads do not wait for a paused clock.
#[tokio::test]
async fn blocking_code_has_a_thread_of_its_own_and_is_told_to_stop_by_a_closure() {
    let (closed, thread) = (Arc::default(), Arc::default());
    let mut service = blocking_reader(&closed, &thread).start(options(LongRun::default()));
    service.until(|state| state.status.in_run()).await;
    while thread.lock().is_none() {
        tokio::time::sleep(ms(1)).await;
    }
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(thread.lock().as_deref(), Some("job"));
    assert!(closed.load(Ordering::SeqCst));
    service.log.assert_one_cleanup_each();
}

/// Real time: threads do not wait for a paused clock.
#[tokio::test]
async fn blocking_code_without_progress_is_a_failure_and_no_second_run_begins_before_it_returns() {
    let (closed, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (close, tell) = (closed.clone(), told.clone());
    let script = Script::new().update_blocking(move |cx| {
        if cx.run_number() > 1 {
            while !cx.is_stopping() {
                std::thread::sleep(ms(1));
            }
            return Ok(Outcome::idle());
        }
        let tell = tell.clone();
        cx.on_stop(move || tell.store(true, Ordering::SeqCst));
        while !close.load(Ordering::SeqCst) {
            std::thread::sleep(ms(1));
        }
        assert!(cx.is_stopping(), "the run was cancelled");
        Ok(Outcome::idle())
    });
    // Enough for the start of a thread on a busy machine.
    let long = LongRun { idle_timeout: Some(ms(500)), ..LongRun::default() };
    let mut service = script.start(Options { retry_delay: ms(1), max_failures: 1_000, ..options(long) });
    service.until(|state| state.status.stats.errors == 1).await;
    while !told.load(Ordering::SeqCst) {
        tokio::time::sleep(ms(1)).await;
    }
    tokio::time::sleep(ms(50)).await;
    assert_eq!(service.log.count("run 2"), 0);
    closed.store(true, Ordering::SeqCst);
    service.until(|state| state.status.stats.runs == 2).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    service.log.assert_one_cleanup_each();
}

#[tokio::test(start_paused = true)]
async fn closures_of_a_run_are_called_by_a_stop_and_dropped_with_the_run() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.push("dropped closure");
        }
    }
    let script = Script::new();
    let log = script.log.clone();
    let script = script.configure({
        let log = log.clone();
        move |cx| {
            let log = log.clone();
            cx.on_stop(move || log.push("instance told"));
            async { Ok(()) }
        }
    });
    let script = script.update(move |cx| {
        let (log, dropped) = (log.clone(), Dropped(log.clone()));
        cx.on_stop(move || {
            let _dropped = &dropped;
            log.push("run told");
        });
        async move {
            if cx.run_number() == 1 {
                return Ok(Outcome::idle());
            }
            tokio::time::sleep(secs(5)).await;
            Ok(Outcome::idle())
        }
    });
    let mut service = script.start(Options { schedule: Schedule::Interval(secs(60)), ..Options::default() });
    tokio::time::sleep(secs(61)).await;
    assert_eq!(service.log.lines(), ["built 1", "run 1", "dropped closure", "run 2"]);
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    let rest = ["instance told", "run told", "dropped closure", "cleanup 1", "dropped 1"];
    assert_eq!(service.log.lines()[4..], rest);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_does_not_prevent_the_others() {
    let script = Script::new();
    let log = script.log.clone();
    let script = script.update(move |cx| {
        let log = log.clone();
        cx.on_stop(|| panic!("scripted"));
        cx.on_stop(move || log.push("told"));
        async move {
            cx.stopping().await;
            let late = cx.clone();
            cx.on_stop(|| panic!("scripted"));
            cx.on_stop(move || late.processed(7));
            Ok(Outcome::idle())
        }
    });
    let mut service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!((service.log.count("told"), health(&service).error_count), (1, 0));
    assert_eq!(health(&service).total_processed, 7, "a closure that comes too late is called at once");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_drains_may_report_nothing_for_longer_than_its_idle_timeout() {
    let long = LongRun { idle_timeout: Some(secs(3)), ..LongRun::default() };
    for pauses in [false, true] {
        let script = Script::new().update(async |cx| {
            cx.stopping().await;
            tokio::time::sleep(secs(8)).await;
            Ok(Outcome::idle())
        });
        let mut service = script.start(options(long));
        tokio::time::sleep(secs(1)).await;
        if pauses {
            service.inner.request_pause(PausedBy::Handle).unwrap();
            tokio::time::sleep(secs(9)).await;
            assert!(!service.inner.lock().status.in_run());
        }
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert_eq!(health(&service).error_count, 0, "pauses: {pauses}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_only_in_a_retry_wakes_those_that_depend_on_it() {
    let long = LongRun { readiness: Readiness::Explicit, ..LongRun::default() };
    let script = Script::new().update(async |cx| {
        if cx.run_number() == 1 {
            return fails();
        }
        tokio::time::sleep(secs(1)).await;
        cx.ready();
        cx.stopping().await;
        Ok(Outcome::idle())
    });
    let service = script.start(options(long));
    tokio::time::sleep(ms(5_500)).await;
    let shared = service.inner.shared.clone();
    let notified = shared.changed.notified();
    assert_eq!(service.state(), ServiceState::Running, "its state does not change when it is ready");
    tokio::time::timeout(secs(2), notified).await.expect("services that depend on it look again");
    assert!(service.inner.lock().status.is_ready());
}

#[tokio::test(start_paused = true)]
async fn changed_settings_also_end_a_run_that_is_not_ready_yet() {
    let long = LongRun { readiness: Readiness::Explicit, ..LongRun::default() };
    let service = listener().start(options(long));
    tokio::time::sleep(secs(1)).await;
    service.inner.lock().request_rebuild(Rebuild::Settings);
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.log.lines(), ["built 1", "run 1", "cleanup 1", "dropped 1", "built 2", "run 2"]);
    assert_eq!(service.state(), ServiceState::Starting);
}

#[tokio::test(start_paused = true)]
async fn what_a_run_reports_just_before_its_end_counts() {
    let long =
        LongRun { readiness: Readiness::Explicit, stable_after: secs(3), on_end: OnEnd::Again, ..LongRun::default() };
    let script = Script::new().update(async |cx| {
        if cx.run_number() == 1 {
            return fails();
        }
        // Nothing but the end of this wait polls the run.
        tokio::time::sleep(secs(3)).await;
        cx.ready();
        fails()
    });
    let service = script.start(options(long));
    tokio::time::sleep(secs(9)).await;
    assert!(service.inner.lock().status.is_ready());
    assert_eq!(health(&service).failures, 1, "the first failure no longer counts");
}

#[tokio::test(start_paused = true)]
async fn what_a_run_has_spawned_learns_of_its_end() {
    let helpers = Arc::new(AtomicUsize::new(0));
    let ended = helpers.clone();
    let script = Script::new().update(move |cx| {
        let ended = ended.clone();
        async move {
            tokio::spawn(async move {
                cx.stopping().await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
            tokio::time::sleep(secs(60)).await;
            Ok(Outcome::idle())
        }
    });
    let service = script.start(options(LongRun { on_end: OnEnd::Again, ..LongRun::default() }));
    tokio::time::sleep(secs(61)).await;
    assert_eq!((helpers.load(Ordering::SeqCst), health(&service).runs), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_told_to_end_may_stop_or_pause_its_service() {
    let script = Script::new().update(async |cx| {
        cx.stopping().await;
        cx.stop();
        Ok(Outcome::idle())
    });
    let mut service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.request_pause(PausedBy::Handle).expect("it runs");
    assert_eq!(service.ended().await, Exit::Stopped);

    let script = Script::new().update(async |cx| {
        cx.stopping().await;
        cx.pause();
        Ok(Outcome::idle())
    });
    let mut service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.update(|state| state.request_rebuild(Rebuild::Settings));
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
}

/// The task of an earlier start does not stop or pause a later one.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_start_has_left_changes_nothing() {
    let kept: Arc<Mutex<Vec<Context>>> = Arc::default();
    let contexts = kept.clone();
    let script = Script::new().update(move |cx| {
        contexts.lock().push(cx.clone());
        async move {
            cx.stopping().await;
            Ok(Outcome::idle())
        }
    });
    let mut service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    service = service.start_again();
    tokio::time::sleep(secs(1)).await;
    let earlier = kept.lock()[0].clone();
    earlier.pause();
    earlier.stop();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Running);
}

/// Nor does it report that a later run is ready, or makes progress. Items that it has processed count.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_has_left_reports_nothing_of_the_present_one() {
    let kept: Arc<Mutex<Vec<Context>>> = Arc::default();
    let contexts = kept.clone();
    let script = Script::new().update(move |cx| {
        contexts.lock().push(cx.clone());
        async move {
            cx.stopping().await;
            Ok(Outcome::idle())
        }
    });
    let long = LongRun { readiness: Readiness::Explicit, idle_timeout: Some(secs(10)), ..LongRun::default() };
    let service = script.start(Options { max_failures: 100, ..options(long) });
    tokio::time::sleep(secs(30)).await;
    // The first run was idle for too long.
    let earlier = kept.lock()[0].clone();
    assert!(kept.lock().len() > 1);
    for _ in 0..30 {
        earlier.heartbeat();
        earlier.ready();
        earlier.processed(1);
        tokio::time::sleep(secs(1)).await;
    }
    let found = health(&service);
    assert!(found.runs >= 4, "later runs are idle, too: {found:?}");
    assert_ne!(found.state, ServiceState::Running);
    assert_eq!(found.total_processed, 30);
    let present = kept.lock().last().cloned().unwrap();
    present.ready();
    tokio::time::sleep(ms(10)).await;
    assert_eq!(service.state(), ServiceState::Running);
}

/// The tasks of a `run` that is paused see the pause until the run has ended for them, too.
#[tokio::test(start_paused = true)]
async fn the_end_that_was_requested_lasts_until_the_run_is_over() {
    /// An error whose text is computed between the return of the run and its end.
    #[derive(Debug)]
    struct Returned(Context, Arc<Mutex<Vec<bool>>>);
    impl std::fmt::Display for Returned {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.1.lock().push(self.0.is_stopping());
            f.write_str("the end was requested")
        }
    }
    impl std::error::Error for Returned {}

    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let stopping = seen.clone();
    let script = Script::new().update(move |cx| {
        let stopping = stopping.clone();
        async move {
            cx.stopping().await;
            let (spawned, ended) = (cx.clone(), stopping.clone());
            tokio::spawn(async move {
                // It begins to wait when the run has returned.
                spawned.stopping().await;
                ended.lock().push(spawned.is_stopping());
            });
            Err(Error::new(Returned(cx, stopping)))
        }
    });
    let service = script.start(options(LongRun::default()));
    tokio::time::sleep(secs(1)).await;
    service.inner.request_pause(PausedBy::Handle).unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    let seen = seen.lock().clone();
    assert!(seen.len() >= 2 && !seen.contains(&false), "{seen:?}");
}
