//! User code may call back into its context, or panic, wherever it is called: also where its errors are printed, and
//! where its errors, instances and futures are dropped.

use std::fmt;
use std::sync::mpsc;

use super::*;
use crate::runtime::metrics::MetricValue;

/// What a value does when it is printed or dropped.
type Reaction = Arc<dyn Fn() + Send + Sync>;

/// An error, a panic's payload, or a part of an instance or a run.
struct Reacting {
    printed: Reaction,
    dropped: Reaction,
}

impl Reacting {
    /// Calls every method of a context.
    fn calls(cx: &Context) -> Self {
        let (printed, dropped) = (cx.clone(), cx.clone());
        Self { printed: Arc::new(move || call_all(&printed)), dropped: Arc::new(move || call_all(&dropped)) }
    }

    fn panics_when_printed() -> Self {
        Self { printed: Arc::new(|| panic!("printing panics")), dropped: Arc::new(|| {}) }
    }

    fn panics_when_dropped() -> Self {
        Self { printed: Arc::new(|| {}), dropped: Arc::new(|| panic!("dropping panics")) }
    }
}

impl fmt::Display for Reacting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.printed)();
        f.write_str("it reacts")
    }
}

impl fmt::Debug for Reacting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Reacting {}

impl Drop for Reacting {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            (self.dropped)();
        }
    }
}

impl From<Reacting> for Result<Outcome> {
    fn from(error: Reacting) -> Self {
        Err(Error::new(error))
    }
}

fn call_all(cx: &Context) {
    struct Amount<'a>(&'a Context);
    impl MetricValue for Amount<'_> {
        fn into_f64(self) -> f64 {
            self.0.metrics().get("calls").unwrap_or_default() + 1.0
        }
    }
    struct Reason<'a>(&'a Context);
    impl From<Reason<'_>> for String {
        fn from(reason: Reason<'_>) -> Self {
            format!("stopping: {}", reason.0.is_stopping())
        }
    }
    cx.metrics().set("calls", Amount(cx));
    cx.degraded(Reason(cx));
    let _ = cx.state::<u32>();
    let _ = cx.config::<std::collections::BTreeMap<String, String>>();
    let _ = format!("{cx:?} {} {}", cx.service_id(), cx.requester_id());
    let _ = cx.service.lock().snapshot();
    cx.set_retry_delay(Duration::ZERO);
    cx.pause();
    let _ = cx.service.request_resume();
}

fn options() -> Options {
    Options { max_failures: 2, retry_delay: Duration::ZERO, drain_timeout: ms(200), ..Options::default() }
}

/// Waits until the service is failed after `max_failures`, and checks that it cleaned up its instances.
async fn fails_in_order(script: Script) -> Service {
    let mut service = script.start(options());
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(service.inner.lock().status.stats.errors, 3);
    service.log.assert_one_cleanup_each();
    service
}

#[test]
fn errors_may_call_their_context_when_they_are_printed_and_dropped() {
    on_each_runtime(|| async {
        let service = fails_in_order(Script::new().update(async |cx| Reacting::calls(&cx).into())).await;
        assert_eq!(service.inner.lock().status.stats.runs, 3);
        assert!(service.inner.metrics.get("calls").is_some_and(|calls| calls >= 3.0));
    });
}

#[test]
fn errors_of_configure_and_cleanup_may_call_their_context() {
    on_each_runtime(|| async {
        let script = Script::new().configure(async |cx| Err(Error::new(Reacting::calls(&cx))));
        fails_in_order(script).await;
        let script = Script::new().update(async |_| fails());
        fails_in_order(script.cleanup(async |cx| Err(Error::new(Reacting::calls(&cx))))).await;
    });
}

#[test]
fn every_method_may_call_its_context() {
    on_each_runtime(|| async {
        let contexts: Arc<Mutex<Option<Context>>> = Arc::default();
        let (kept, in_failure) = (contexts.clone(), contexts.clone());
        let script = Script::new().configure(move |cx| {
            call_all(&cx);
            *kept.lock() = Some(cx);
            async { Ok(()) }
        });
        let script = script.update(async |cx| {
            call_all(&cx);
            fails()
        });
        let script = script.on_failure(move |failure| {
            let cx = in_failure.lock().clone();
            call_all(&cx.expect("it was built"));
            failure.recovery()
        });
        let script = script.cleanup(async |cx| {
            call_all(&cx);
            Ok(())
        });
        fails_in_order(script.dropped(call_all)).await;
    });
}

#[test]
fn values_that_a_cancelled_run_drops_may_call_the_context() {
    on_each_runtime(|| async {
        let script = Script::new().update(async |cx| {
            let _held = Reacting::calls(&cx);
            std::future::pending().await
        });
        let mut service = script.start(Options { timeout: Some(ms(5)), ..options() });
        assert_eq!(service.ended().await, Exit::Failed);
        service.log.assert_one_cleanup_each();
    });
}

#[test]
fn the_payload_of_a_panic_may_call_the_context() {
    on_each_runtime(|| async {
        let script = Script::new().update(async |cx| std::panic::panic_any(Reacting::calls(&cx)));
        fails_in_order(script).await;
    });
}

#[test]
fn a_loop_that_is_dropped_drops_user_code_that_may_call_its_context() {
    on_each_runtime(|| async {
        let script = Script::new().dropped(call_all).update(async |cx| {
            let _held = Reacting::calls(&cx);
            std::future::pending().await
        });
        let mut service = script.start(options());
        service.until(|state| state.status.in_run()).await;
        let run = service.run.take().expect("it runs");
        run.abort();
        let _ = run.await;
        assert_eq!(service.state(), ServiceState::Failed);
    });
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_an_error_is_printed_is_caught() {
    let service = fails_in_order(Script::new().update(async |_| Reacting::panics_when_printed().into())).await;
    let error = service.inner.lock().status.last_error.clone().expect("it failed");
    assert!(format!("{error:#}").contains("cannot be printed"), "{error:#}");
    let script = Script::new().configure(async |_| Err(Error::new(Reacting::panics_when_printed())));
    fails_in_order(script).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_an_error_is_dropped_is_caught() {
    let run = Script::new().update(async |_| Reacting::panics_when_dropped().into());
    let configure = Script::new().configure(async |_| Err(Error::new(Reacting::panics_when_dropped())));
    for script in [run, configure] {
        let service = fails_in_order(script).await;
        // The last error is dropped with the last owner of the service.
        let last_error = service.inner.lock().status.last_error.take();
        std::mem::forget(last_error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_the_error_of_cleanup_is_printed_or_dropped_is_caught() {
    for error in [Reacting::panics_when_printed, Reacting::panics_when_dropped] {
        let mut service = Script::new().cleanup(move |_| async move { Err(Error::new(error())) }).start(options());
        service.started().await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        service.log.assert_one_cleanup_each();
        let script = Script::new().update(async |_| panic!("scripted"));
        fails_in_order(script.cleanup(move |_| async move { Err(Error::new(error())) })).await;
        let script = Script::new().update_blocking(|_| panic!("scripted"));
        fails_in_order(script.cleanup_blocking(move |_| Err(Error::new(error())))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_an_instance_is_dropped_is_caught() {
    let script = Script::new().update(async |_| panic!("scripted")).dropped(|_| panic!("dropping panics"));
    fails_in_order(script).await;
    let script = Script::new().update_blocking(|_| panic!("scripted")).cleanup_blocking(|_| Ok(()));
    fails_in_order(script.dropped(|_| panic!("dropping panics"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_cancelled_run_is_dropped_replaces_the_instance() {
    let script = Script::new().update(async |_| {
        let _held = Reacting::panics_when_dropped();
        std::future::pending().await
    });
    let mut service = script.start(Options { timeout: Some(secs(1)), ..options() });
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(service.log.count("built 3"), 1);
    service.log.assert_one_cleanup_each();
}

/// The late result of a blocking run that had timed out is not used, but dropped.
#[tokio::test(start_paused = true)]
async fn a_panic_while_the_error_of_a_run_that_timed_out_is_dropped_is_caught() {
    for stop_first in [false, true] {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let script = Script::new().update_blocking(move |cx| {
            if cx.run == 1 {
                let _ = released.lock().recv();
                return Reacting::panics_when_dropped().into();
            }
            Ok(Outcome::idle())
        });
        let mut service = script.start(Options { timeout: Some(secs(1)), ..options() });
        service.begun().await;
        while service.inner.lock().status.stats.errors == 0 {
            tokio::time::advance(ms(100)).await;
        }
        if stop_first {
            service.stop();
            tokio::task::yield_now().await;
        }
        drop(release);
        if !stop_first {
            service.until(|state| state.status.stats.runs == 2).await;
            service.stop();
        }
        assert_eq!(service.ended().await, Exit::Stopped);
        service.log.assert_one_cleanup_each();
    }
}
