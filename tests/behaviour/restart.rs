//! `restart = "on_failure"`: a fresh instance after a permanent failure, at most `max_restarts` times.

use service_core::HealthStatus;
use service_core::prelude::*;

use crate::acting::{Configured, Plan, soon};
use crate::support::{Log, Scripted, Step, secs};

fn failing(log: &Log, times: usize) -> impl Fn() -> Scripted + Send + Sync + use<> {
    let log = log.clone();
    move || {
        log.push("built");
        Scripted::new(&log, if log.count("built") <= times { &[Step::Fatal] } else { &[] })
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_instance_follows_after_restart_delay() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let service = bed.start_fn(failing(&log, 1)).await;
    bed.run_for(secs(1)).await;
    let health = service.health();
    assert_eq!((health.state, health.status), (ServiceState::BackingOff, HealthStatus::Unhealthy));
    let reason = health.reason.unwrap();
    assert!(reason.contains("restarting with a fresh instance in 59 s: it is hopeless"), "{reason}");
    bed.run_for(secs(60)).await;
    assert_eq!((log.times("built"), log.times("cleanup")), (vec![0.0, 60.0], vec![0.0]));
    let health = service.health();
    assert_eq!((health.state, health.failures, health.restarts), (ServiceState::Running, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn after_max_restarts_the_service_stays_failed() {
    let bed = TestBed::new().set("restart", "on_failure").set("restart_delay", 10).set("max_restarts", 2);
    let log = Log::default();
    let service = bed.start_fn(failing(&log, 99)).await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!((log.times("built"), log.count("cleanup")), (vec![0.0, 10.0, 20.0], 3));
    assert_eq!(service.health().restarts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_possible_again_when_an_old_one_leaves_the_window() {
    let bed = TestBed::new().set("restart", "on_failure").set("restart_delay", 10).set("max_restarts", 1);
    let bed = bed.set("restart_window", 15);
    let log = Log::default();
    let (builder_log, step_log) = (log.clone(), log.clone());
    // Each instance fails in its second run, a minute after its first.
    let service = bed
        .start_fn(move || {
            builder_log.push("built");
            Scripted::new(&step_log, &[Step::Succeed, Step::Fatal])
        })
        .await;
    bed.run_for(secs(400)).await;
    assert!(log.count("built") > 4, "{:?}", log.lines());
    assert_ne!(service.state(), ServiceState::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_instance_that_cannot_be_built_backs_off_like_any_other() {
    let bed = TestBed::new().set("restart", "on_failure");
    let bed = bed.state(Plan::new(&Log::default(), &[Step::Fatal, Step::Fail]));
    let service = bed.services().await.register_of::<Configured>("one").await.unwrap();
    let _ = service.start().await;
    let reason = || service.health().reason.unwrap_or_default();
    assert!(reason().contains("restarting with a fresh instance in 60 s"), "{}", reason());
    bed.run_for(secs(61)).await;
    assert!(reason().contains("backing off after failure 1 of 3"), "{}", reason());
    bed.run_for(secs(10)).await;
    assert_eq!((service.state(), reason()), (ServiceState::Running, String::new()));
}

#[tokio::test(start_paused = true)]
async fn each_fresh_instance_has_all_its_retries() {
    let bed = TestBed::new().set("restart", "on_failure").set("max_failures", 1).set("max_restarts", 1);
    let log = Log::default();
    let builder_log = log.clone();
    let service = bed.start_fn(move || Scripted::new(&builder_log, &[Step::Fail; 9])).await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!(log.times("run"), [0.0, 5.0, 65.0, 70.0]);
    assert_eq!(log.count("cleanup"), 2);
}

#[tokio::test(start_paused = true)]
async fn restart_of_a_ready_made_instance_is_an_error_at_registration() {
    let services = TestBed::new().services().await;
    let registered =
        |options: ServiceOptions| services.register("one", Scripted::new(&Log::default(), &[])).options(options);
    let error = registered(ServiceOptions::new().restart_on_failure()).await.unwrap_err().to_string();
    for part in ["service `one` (tests/behaviour/restart.rs:", "`restart = \"on_failure\"`", "`register_fn`"] {
        assert!(error.contains(part), "{error}");
    }
    registered(ServiceOptions::new().never_restart()).await.unwrap();
}

/// A value for all services applies only to the services for which it makes sense.
#[tokio::test(start_paused = true)]
async fn restart_for_all_services_does_not_apply_to_a_ready_made_instance() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!((log.count("run"), service.health().restarts), (1, 0));
    let explained = service.explain();
    assert!(
        explained.options.iter().any(|option| (option.key.as_str(), option.value.as_str()) == ("restart", "never"))
    );
}

#[tokio::test(start_paused = true)]
async fn scope_for_all_services_does_not_apply_to_a_ready_made_instance() {
    let bed = TestBed::new().set("scope", "cluster").set("cron", "0 3 * * *");
    let service = bed.start(Scripted::new(&Log::default(), &[])).await;
    let explained = service.explain().options;
    let shown: Vec<_> = explained.iter().map(|option| (option.key.as_str(), option.value.as_str())).collect();
    assert!(shown.contains(&("scope", "process")) && shown.contains(&("catch_up", "none")), "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_configure_that_fails_permanently_is_restarted() {
    let log = Log::default();
    let bed = TestBed::new().set("restart", "on_failure").state(Plan::new(&log, &[Step::Fatal]));
    let service = bed.start_of::<Configured>().await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    bed.run_for(secs(61)).await;
    assert_eq!((log.times("configure"), service.state()), (vec![0.0, 60.0], ServiceState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_a_restart() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let service = bed.start_fn(failing(&log, 1)).await;
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!((service.state(), log.count("built"), log.count("cleanup")), (ServiceState::Stopped, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_not_followed_by_a_restart() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let builder_log = log.clone();
    let service = bed
        .start_fn(move || {
            let mut scripted = Scripted::new(&builder_log, &[Step::Fail]);
            scripted.recovery = Some(|_| Recovery::Stop);
            scripted
        })
        .await;
    bed.run_for(secs(1000)).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::Stopped, 1));
}
