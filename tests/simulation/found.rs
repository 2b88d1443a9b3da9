//! Errors that the simulation found, each reduced to the shortest case.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use service_core::prelude::*;
use service_core::{FailureKind, ServiceEvent, ServiceEventKind};

use crate::actor::PANIC;
use crate::quiet::hush;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The runs with these numbers panic. `cleanup` takes a while.
struct Fragile {
    panics: &'static [u64],
    cleanup: Duration,
}

#[service(interval = 60, discover = false)]
impl Fragile {
    async fn update(&mut self, cx: &Context) {
        if self.panics.contains(&cx.run_number()) {
            panic!("{PANIC}");
        }
    }

    async fn cleanup(&mut self) {
        tokio::time::sleep(self.cleanup).await;
    }
}

/// A bed with one service, which is built by this closure and configured by `set`.
async fn registry(
    set: &[(&str, i64)],
    build: impl Fn() -> Fragile + Send + Sync + 'static,
) -> (TestBed, ServiceHandle) {
    hush();
    let mut bed = TestBed::new();
    for (key, value) in set {
        bed = bed.set(key, *value);
    }
    let services = bed.services().await;
    let handle = services.register_fn("fragile", build).await.expect("the id is free");
    (bed, handle)
}

/// The events so far.
async fn received(events: &mut (impl Stream<Item = ServiceEvent> + Unpin)) -> Vec<ServiceEventKind> {
    let mut received = Vec::new();
    std::future::poll_fn(|task| {
        while let Poll::Ready(Some(event)) = Pin::new(&mut *events).poll_next(task) {
            received.push(event.kind);
        }
        Poll::Ready(())
    })
    .await;
    received
}

/// The kinds of the failures, and what was decided.
fn failures(received: &[ServiceEventKind]) -> Vec<(FailureKind, Recovery)> {
    let failure = |kind: &ServiceEventKind| match kind {
        ServiceEventKind::RunFailed { failure, recovery, .. } => Some((*failure, *recovery)),
        _ => None,
    };
    received.iter().filter_map(failure).collect()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_could_not_be_rebuilt_is_built_again_after_a_wait() {
    let built = Arc::new(AtomicU64::new(0));
    let (bed, service) = registry(&[], {
        let built = built.clone();
        move || {
            let second = built.fetch_add(1, Ordering::Relaxed) == 1;
            if second {
                panic!("{PANIC}");
            }
            Fragile { panics: &[1], cleanup: Duration::ZERO }
        }
    })
    .await;
    service.start().await.unwrap();
    bed.run_for(secs(11)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!((built.load(Ordering::Relaxed), service.health().runs, service.health().error_count), (3, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_is_reported_as_a_panic() {
    let (bed, service) = registry(&[("max_failures", 0)], || panic!("{PANIC}")).await;
    let mut events = bed.services().await.subscribe();
    assert!(service.start().await.is_err());
    assert_eq!(failures(&received(&mut events).await), [(FailureKind::Panic, Recovery::Fail)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_has_the_decision_and_not_the_answer_of_on_failure() {
    hush();
    let bed = TestBed::new();
    let mut events = bed.services().await.subscribe();
    let service = bed.start(Fragile { panics: &[1], cleanup: Duration::ZERO }).await;
    service.wait_for(ServiceState::Failed).await.unwrap();
    assert_eq!(failures(&received(&mut events).await), [(FailureKind::Panic, Recovery::Fail)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_has_failed_stays_failed_while_it_still_cleans_up() {
    let set = [("max_failures", 0)];
    let (bed, service) = registry(&set, || Fragile { panics: &[1], cleanup: secs(10) }).await;
    service.start().await.unwrap();
    bed.run_for(secs(5)).await;
    assert!(service.pause().await.is_err(), "it is failing");
    assert!(service.run_now().await.is_err(), "it is failing");
    for refused in [service.start().await, service.reset().await] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("it is failing"), "{error}");
    }
    let health = service.health();
    assert_eq!(health.status, service_core::HealthStatus::Unhealthy);
    let reason = health.reason.unwrap_or_default();
    assert!(reason.starts_with("failing: its instance is being cleaned up: "), "{reason}");
    assert!(service.explain().to_string().contains(&reason), "{}", service.explain());
    service.stop().await.unwrap();
    assert_eq!(service.state(), ServiceState::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_service_does_not_back_off_during_a_cleanup_because_of_an_earlier_failure() {
    let (bed, service) = registry(&[], || Fragile { panics: &[2, 3], cleanup: secs(10) }).await;
    service.start().await.unwrap();
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    for _ in 0..2 {
        assert!(service.run_now().await.unwrap().error().is_some());
    }
    service.resume().await.unwrap();
    assert_eq!(service.state(), ServiceState::Running, "the decision takes effect after the cleanup");
    bed.run_for(secs(10)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_started_while_it_is_unregistered_is_stopped_again() {
    let (bed, service) = registry(&[], || Fragile { panics: &[], cleanup: secs(1) }).await;
    let services = bed.services().await;
    service.start().await.unwrap();
    let again = async {
        service.stop().await.unwrap();
        let _ = service.start().await;
    };
    let ((), unregistered) = tokio::join!(biased; again, services.unregister("fragile"));
    unregistered.unwrap();
    bed.run_for(secs(600)).await;
    assert!(services.get("fragile").is_none());
    assert!(!service.state().is_running(), "it is {}", service.state());
}

/// Changes its delay ten seconds after its first run.
#[derive(Default)]
struct Fickle;

#[service(delay = 300, initial_delay = 3600, discover = false)]
impl Fickle {
    async fn update(&mut self, cx: &Context) {
        if cx.run_number() == 1 {
            let cx = cx.clone();
            tokio::spawn(async move {
                tokio::time::sleep(secs(10)).await;
                cx.set_interval(secs(1000));
            });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_delay_also_counts_from_a_requested_run_during_the_initial_delay() {
    let bed = TestBed::new();
    let service = bed.start_of::<Fickle>().await;
    bed.run_for(secs(100)).await;
    service.run_now().await.unwrap();
    bed.run_for(secs(999)).await;
    assert_eq!(service.health().runs, 1);
    bed.run_for(secs(2)).await;
    assert_eq!(service.health().runs, 2);
}

/// Keeps its context, so that its options can be changed from outside.
struct Hourly(Arc<OnceLock<Context>>);

#[service(cron = "0 * * * *", discover = false)]
impl Hourly {
    async fn update(&mut self, cx: &Context) {
        let _ = self.0.set(cx.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_became_due_during_a_pause_stays_due_when_an_option_changes() {
    let (bed, cx) = (TestBed::new(), Arc::new(OnceLock::new()));
    let service = bed.start(Hourly(cx.clone())).await;
    bed.run_for(secs(3600)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(5000)).await;
    cx.get().unwrap().set_retry_delay(secs(7));
    bed.run_for(secs(1)).await;
    service.resume().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(service.health().runs, 2);
}

/// Its `configure` is slow, and changes its schedule.
struct Changed;

#[service(cron = "0 0 1 1 *", discover = false)]
impl Changed {
    async fn configure(cx: &Context) -> Self {
        tokio::time::sleep(secs(10)).await;
        cx.set_interval(secs(600));
        Self
    }

    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_replaces_a_cron_schedule_before_the_start_also_runs_at_once() {
    let bed = TestBed::new().set("jitter", 300);
    let service = bed.start_of::<Changed>().await;
    bed.run_for(Duration::from_millis(1)).await;
    assert_eq!(service.health().runs, 1);
}
