//! Exactly one `cleanup` for every instance, however it ends; and a loop that is dropped reports its end.

use std::sync::mpsc;

use tokio::time::Instant;

use super::*;
use crate::config::options::{Exhausted, Restart};
use crate::runtime::requests::Rebuild;

/// Waits for the end of the service, and checks that each of its instances was cleaned up once.
async fn ends(name: &str, mut service: Service, expected: Exit, instances: usize) {
    assert_eq!(service.ended().await, expected, "{name}");
    let lines = service.log.lines();
    assert_eq!(lines.iter().filter(|line| line.starts_with("built")).count(), instances, "{name}: {lines:?}");
    service.log.assert_one_cleanup_each();
}

fn options() -> Options {
    Options { max_failures: 1, retry_delay: secs(1), drain_timeout: secs(5), ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn a_stop_cleans_up_once() {
    let service = Script::new().start(options());
    service.until(|state| state.status.stats.last_success.is_some()).await;
    service.stop();
    ends("while it waits", service, Exit::Stopped, 1).await;

    let service = Script::new().start(Options { initial_delay: secs(60), ..options() });
    service.started().await;
    service.stop();
    ends("before the first run", service, Exit::Stopped, 1).await;

    let script = Script::new().update(async |_| {
        tokio::time::sleep(secs(1)).await;
        Ok(Outcome::idle())
    });
    let service = script.start(options());
    service.until(|state| state.status.in_run()).await;
    service.stop();
    ends("during a run that ends", service, Exit::Stopped, 1).await;

    let service = Script::new().update(async |_| std::future::pending().await).start(options());
    service.until(|state| state.status.in_run()).await;
    service.stop();
    ends("during a run that hangs", service, Exit::Stopped, 1).await;

    let script = Script::new().configure(async |_| {
        tokio::time::sleep(secs(1)).await;
        Ok(())
    });
    let service = script.start(options());
    tokio::task::yield_now().await;
    service.stop();
    ends("while it is built", service, Exit::Stopped, 1).await;

    let service = Script::new().configure(async |_| std::future::pending().await).start(options());
    tokio::task::yield_now().await;
    service.stop();
    ends("while a configure hangs", service, Exit::Stopped, 0).await;

    let service = Script::new().update(async |_| fails()).start(options());
    service.until(|state| state.status.is_backing_off()).await;
    service.stop();
    ends("while it waits for a retry", service, Exit::Stopped, 1).await;

    let script = Script::new().update(async |cx| {
        cx.stop();
        Ok(Outcome::idle())
    });
    ends("by the run itself", script.start(options()), Exit::Stopped, 1).await;

    let service = Script::new().start(options());
    service.stop();
    ends("before the first poll of the loop", service, Exit::Stopped, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_ends_the_service_cleans_up_once() {
    let service = Script::new().update(async |_| fails()).start(options());
    ends("too many errors", service, Exit::Failed, 1).await;

    let service = Script::new().update(async |_| Err(Error::fatal("hopeless"))).start(options());
    ends("a fatal error", service, Exit::Failed, 1).await;

    let service = Script::new().update(async |_| panic!("scripted")).start(options());
    ends("panics", service, Exit::Failed, 2).await;

    let service = Script::new()
        .update(async |_| std::future::pending().await)
        .start(Options { timeout: Some(secs(1)), ..options() });
    ends("timeouts", service, Exit::Failed, 1).await;

    let service = Script::new().update(async |_| fails()).on_failure(|_| Recovery::Stop).start(options());
    ends("`on_failure` stops it", service, Exit::Stopped, 1).await;

    let service = Script::new().update(async |_| fails()).on_failure(|_| Recovery::Fail).start(options());
    ends("`on_failure` fails it", service, Exit::Failed, 1).await;

    let service = Script::new().update(async |_| fails()).on_failure(|_| panic!("scripted")).start(options());
    ends("`on_failure` panics", service, Exit::Failed, 2).await;

    let service = Script::new().update(async |_| fails()).cleanup(async |_| panic!("scripted")).start(options());
    ends("`cleanup` panics", service, Exit::Failed, 1).await;

    let service =
        Script::new().update(async |_| fails()).cleanup(async |_| std::future::pending().await).start(options());
    ends("`cleanup` hangs", service, Exit::Failed, 1).await;

    let service = Script::new().update_blocking(|_| panic!("scripted")).cleanup_blocking(|_| fails().map(drop));
    ends("blocking code panics and fails", service.start(options()), Exit::Failed, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_replaced_is_cleaned_up_once() {
    let script = Script::new().update(async |cx| {
        if cx.run == 1 {
            cx.service.lock().request_rebuild(Rebuild::Reset);
        }
        Ok(Outcome::idle())
    });
    let service = script.start(options());
    service.until(|state| state.status.stats.runs == 2).await;
    service.stop();
    ends("`reset` from within the run", service, Exit::Stopped, 2).await;

    let script = Script::new().update(async |cx| {
        if cx.run == 1 {
            cx.service.lock().request_rebuild(Rebuild::Reset);
            return Err(Error::fatal("hopeless"));
        }
        Ok(Outcome::idle())
    });
    let service = script.start(options());
    service.until(|state| state.status.stats.runs == 2).await;
    service.stop();
    ends("`reset` from within a run that fails", service, Exit::Stopped, 2).await;

    let service = Script::new().start(options());
    service.until(|state| state.status.stats.last_success.is_some()).await;
    service.inner.lock().request_rebuild(Rebuild::Settings);
    service.until(|state| state.status.stats.runs == 2).await;
    service.stop();
    ends("its settings have changed", service, Exit::Stopped, 2).await;

    let restart = Some(Restart { delay: secs(1), max: 2, window: secs(600) });
    let service = Script::new().update(async |_| fails()).start(Options { restart, ..options() });
    ends("restarts", service, Exit::Failed, 3).await;
}

#[tokio::test(start_paused = true)]
async fn the_instance_of_a_blocking_run_that_timed_out_is_cleaned_up_once_when_it_returns() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let script = Script::new().update_blocking(move |cx| {
        if cx.run == 1 {
            let _ = released.lock().recv();
        }
        Ok(Outcome::idle())
    });
    let mut service = script.start(Options { timeout: Some(secs(1)), max_failures: 3, ..options() });
    service.begun().await;
    while !service.inner.lock().status.is_backing_off() {
        tokio::time::advance(ms(100)).await;
    }
    tokio::time::advance(secs(10)).await;
    assert_eq!(service.inner.lock().status.stats.runs, 1, "the next run waits for the one that timed out");
    service.inner.lock().request_rebuild(Rebuild::Settings);
    tokio::task::yield_now().await;
    assert_eq!(service.log.count("cleanup 1"), 0);
    drop(release);
    service.until(|state| state.status.stats.runs == 2).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    assert_eq!(service.log.count("built 2"), 1, "its settings had changed");
    service.log.assert_one_cleanup_each();
}

#[tokio::test(start_paused = true)]
async fn a_delay_counts_from_the_return_of_a_blocking_run_that_timed_out() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let script = Script::new().update_blocking(move |cx| {
        if cx.run == 1 {
            let _ = released.lock().recv();
        }
        Ok(Outcome::idle())
    });
    let (schedule, exhausted) = (Schedule::Delay(secs(60)), Some(Exhausted::NextRun));
    let mut service =
        script.start(Options { schedule, exhausted, max_failures: 0, timeout: Some(secs(1)), ..options() });
    service.begun().await;
    while !service.inner.lock().status.given_up {
        tokio::time::advance(ms(100)).await;
    }
    tokio::time::advance(secs(100)).await;
    assert_eq!(service.inner.lock().status.stats.runs, 1, "the next run waits for the one that timed out");
    drop(release);
    service.until(|state| state.status.wait_reason.is_none()).await;
    let returned = Instant::now();
    // The delay counts from the same moment when the options change.
    service.inner.set_interval(secs(50));
    service.until(|state| state.status.stats.runs == 2).await;
    assert!((secs(49)..secs(52)).contains(&returned.elapsed()), "{:?}", returned.elapsed());
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    service.log.assert_one_cleanup_each();
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_dropped_reports_its_end() {
    for (stopping, expected) in [(false, ServiceState::Failed), (true, ServiceState::Stopped)] {
        let context: Arc<Mutex<Option<Context>>> = Arc::default();
        let kept = context.clone();
        let script = Script::new().update(move |cx| {
            *kept.lock() = Some(cx);
            std::future::pending()
        });
        let mut service = script.start(options());
        service.until(|state| state.status.in_run()).await;
        let cx = context.lock().take().expect("a run has begun");
        let (waiter, report) = oneshot::channel();
        service.inner.request_run(Some(waiter)).expect("it runs");
        if stopping {
            service.stop();
        }
        let run = service.run.take().expect("it runs");
        run.abort();
        assert!(run.await.expect_err("it was aborted").is_cancelled());
        assert_eq!(service.state(), expected);
        assert!(report.await.is_err(), "the requested run never begins");
        cx.stopping().await;
        service.started().await;
        assert_eq!(service.log.lines(), ["built 1", "run 1", "dropped 1"]);
        let mut again = service.start_again();
        again.until(|state| state.status.in_run()).await;
        again.stop();
        assert_eq!(again.ended().await, Exit::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_dropped_before_its_first_poll_reports_its_end() {
    let (service, supervisor) = Script::new().begin(options(), Shared::default(), Arc::new(NoExtension));
    assert_eq!(service.state(), ServiceState::Starting);
    drop(supervisor);
    assert_eq!(service.state(), ServiceState::Failed);
    service.started().await;
}

/// Both events are sent while the list is locked: in between, no other service can be registered under the id.
#[tokio::test(start_paused = true)]
async fn the_list_of_services_itself_sends_the_events_of_its_changes() {
    use std::task::{Context as Task, Poll, Waker};

    use futures_core::Stream;

    use crate::runtime::events::ServiceEventKind;

    let (service, _supervisor) = Script::new().begin(options(), Shared::default(), Arc::new(NoExtension));
    let services = &service.services;
    let mut events = std::pin::pin!(services.shared.events.subscribe(&services.shared.clock));
    services.insert(service.registered.clone(), |_| Ok(()), |_| Ok(())).expect("its id is free");
    assert_eq!(services.remove(&service.registered, || true), Some(true));
    for expected in [ServiceEventKind::Registered, ServiceEventKind::Unregistered] {
        let Poll::Ready(Some(event)) = events.as_mut().poll_next(&mut Task::from_waker(Waker::noop())) else {
            panic!("no event, but {expected:?} is expected");
        };
        assert_eq!(format!("{:?}", event.kind), format!("{expected:?}"));
    }
}
