//! A panic, wherever it happens, ends only the instance.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, has_line, logged, soon};
use crate::support::{Log, Scripted, Step, built, secs};

#[tokio::test(start_paused = true)]
async fn a_panic_in_configure_is_retried_like_an_error() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Panic, Step::Panic]));
    let service = bed.start_of::<Configured>().await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::BackingOff, 1));
    let error = service.health().last_error.unwrap();
    assert!(error.contains("building the instance panicked: it panicked"), "{error}");
    bed.run_for(secs(11)).await;
    assert_eq!((log.times("configure"), log.times("run")), (vec![0.0, 5.0, 10.0], vec![10.0]));
    assert_eq!((service.state(), service.health().failures), (ServiceState::Running, 0));
}

#[tokio::test(start_paused = true)]
async fn too_many_panics_in_configure_make_the_service_failed() {
    let log = Log::default();
    let bed = TestBed::new().set("max_failures", 1).state(Plan::new(&log, &[Step::Panic, Step::Panic]));
    let service = bed.start_of::<Configured>().await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!((log.count("configure"), log.count("cleanup")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_building_closure_is_a_failure() {
    let bed = TestBed::new();
    let service = bed.start_fn(|| -> Scripted { panic!("no luck") }).await;
    let error = service.health().last_error.unwrap();
    assert!(error.contains("building the instance panicked: no luck"), "{error}");
    assert_eq!(service.state(), ServiceState::BackingOff);
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_in_on_failure_the_default_applies_and_the_instance_is_replaced() {
    let (bed, log) = (TestBed::new(), Log::default());
    let (lines, _logging) = logged();
    let service = bed
        .start_fn(built(&log, |log, _| {
            let mut scripted = Scripted::new(log, &[Step::Fail]);
            scripted.recovery = Some(|_| panic!("no idea"));
            scripted
        }))
        .await;
    bed.run_for(secs(1)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    bed.run_for(secs(5)).await;
    assert_eq!((log.times("built"), log.times("cleanup")), (vec![0.0, 5.0], vec![0.0, 5.0]));
    assert!(has_line(&lines, &["WARN", "[scripted]", "`on_failure` panicked: no idea"]), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_on_failure_of_a_ready_made_instance_makes_the_service_failed() {
    let (bed, log) = (TestBed::new(), Log::default());
    let mut scripted = Scripted::new(&log, &[Step::Fail]);
    scripted.recovery = Some(|_| panic!("no idea"));
    let service = bed.start(scripted).await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!(log.count("cleanup"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_cleanup_is_caught_and_the_service_stops() {
    let (bed, log) = (TestBed::new(), Log::default());
    let (lines, _logging) = logged();
    let mut scripted = Scripted::new(&log, &[]);
    scripted.cleanup = Step::Panic;
    let service = bed.start(scripted).await;
    soon(service.stop()).await.unwrap();
    assert_eq!((service.state(), log.count("cleanup")), (ServiceState::Stopped, 1));
    assert!(has_line(&lines, &["WARN", "[scripted]", "`cleanup` panicked: it panicked"]), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_cleanup_after_a_panic_does_not_prevent_a_fresh_instance() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start_fn(built(&log, |log, nth| {
            let mut scripted = Scripted::new(log, if nth == 1 { &[Step::Panic] } else { &[] });
            scripted.cleanup = Step::Panic;
            scripted
        }))
        .await;
    bed.run_for(secs(6)).await;
    assert_eq!((log.times("built"), log.count("cleanup")), (vec![0.0, 5.0], 1));
    assert_eq!(service.state(), ServiceState::Running);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_drop_of_the_instance_is_caught_and_logged() {
    struct Explosive(Bomb);

    #[service(interval = 60, discover = false)]
    impl Explosive {
        async fn update(&mut self) {
            let _ = &self.0;
        }
    }

    let bed = TestBed::new();
    let (lines, _logging) = logged();
    let service = bed.start(Explosive(Bomb)).await;
    soon(service.stop()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Stopped);
    assert!(has_line(&lines, &["WARN", "[explosive]", "dropping the instance panicked: dropped"]), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_drop_of_a_timed_out_run_replaces_the_instance() {
    let (bed, log) = (TestBed::new().set("timeout", 3), Log::default());
    let service = bed
        .start_fn(built(&log, |log, _| {
            Acting::new(log, |cx| async move {
                if cx.run_number() == 1 {
                    let _bomb = Bomb;
                    std::future::pending::<()>().await;
                }
            })
        }))
        .await;
    bed.run_for(secs(10)).await;
    assert_eq!((log.times("built"), log.times("cleanup")), (vec![0.0, 8.0], vec![3.0]));
    let error = service.health().last_error.unwrap();
    assert!(error.contains("panicked: dropped"), "{error}");
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_drop_of_an_aborted_run_does_not_prevent_the_stop() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |_| async {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }))
        .await;
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    assert_eq!((service.state(), log.times("cleanup")), (ServiceState::Stopped, vec![31.0]));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_blocking_run_replaces_the_instance() {
    static BUILT: AtomicU32 = AtomicU32::new(0);

    struct Blocking(u32);

    #[service(interval = 60, discover = false)]
    impl Blocking {
        fn configure() -> Self {
            Self(BUILT.fetch_add(1, Ordering::SeqCst))
        }

        fn update(&mut self) {
            assert_ne!(self.0, 0, "the first one is bad");
        }
    }

    let bed = TestBed::new();
    let service = bed.start_of::<Blocking>().await;
    bed.run_for(secs(10)).await;
    assert_eq!((BUILT.load(Ordering::SeqCst), service.health().runs), (2, 2));
    assert!(service.health().last_error.unwrap().contains("the first one is bad"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_may_have_any_payload() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |_| async {
            std::panic::panic_any(Bomb);
            #[allow(unreachable_code, reason = "the closure's type needs an end")]
            Outcome::idle()
        }))
        .await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!(log.count("cleanup"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_does_not_affect_other_services() {
    let (bed, log) = (TestBed::new(), Log::default());
    let healthy = Log::default();
    let steady = bed.start(Scripted::new(&healthy, &[])).await;
    bed.start_fn({
        let log = log.clone();
        move || Scripted::new(&log, &[Step::Panic])
    })
    .await;
    bed.run_for(Duration::from_secs(121)).await;
    assert_eq!((healthy.times("run"), steady.health().error_count), (vec![0.0, 60.0, 120.0], 0));
    assert_eq!(log.count("run"), 4);
}
