//! Pause keeps the instance, takes effect at once, and lets the current run finish.

use service_core::HealthStatus;
use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, assert_says, soon};
use crate::support::{Log, Scripted, Step, secs};

#[tokio::test(start_paused = true)]
async fn pause_lets_the_current_run_finish() {
    let (bed, log) = (TestBed::new(), Log::default());
    let inner = log.clone();
    let service = bed
        .start(Acting::new(&log, move |_| {
            let log = inner.clone();
            async move {
                tokio::time::sleep(secs(10)).await;
                log.push("end");
            }
        }))
        .await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    assert_eq!(service.state(), ServiceState::Paused);
    bed.run_for(secs(200)).await;
    assert_eq!((log.count("run"), log.times("end")), (1, vec![10.0]));
    assert_eq!(service.state(), ServiceState::Paused);
    let health = service.health();
    assert_eq!((health.status, health.reason.as_deref()), (HealthStatus::Degraded, Some("paused by an operator")));
    assert_eq!((health.paused, health.running, health.next_run), (true, true, None));
}

#[tokio::test(start_paused = true)]
async fn pause_during_backoff_keeps_the_rest_of_the_wait() {
    let (bed, log) = (TestBed::new().set("retry_delay", 20), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail])).await;
    bed.run_for(secs(5)).await;
    service.pause().await.unwrap();
    assert_eq!(service.state(), ServiceState::Paused);
    bed.run_for(secs(5)).await;
    service.resume().await.unwrap();
    assert_eq!(service.state(), ServiceState::BackingOff);
    bed.run_for(secs(40)).await;
    assert_eq!(log.times("run"), [0.0, 20.0]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_became_due_during_a_pause_follows_the_resume_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail])).await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(99)).await;
    assert_eq!(log.count("run"), 1);
    service.resume().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(log.times("run"), [0.0, 100.0]);
    assert_eq!((service.state(), service.health().failures), (ServiceState::Running, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_while_paused_is_retried_after_the_resume() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Succeed, Step::Fail])).await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    let report = soon(service.run_now()).await.unwrap();
    assert_eq!(report.error().unwrap().to_string(), "it failed");
    bed.run_for(secs(2)).await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::Paused, 1));
    service.resume().await.unwrap();
    assert_eq!(service.state(), ServiceState::BackingOff);
    bed.run_for(secs(10)).await;
    assert_eq!(log.times("run"), [0.0, 1.0, 6.0]);
}

#[tokio::test(start_paused = true)]
async fn pause_during_the_start_takes_effect_when_the_service_is_ready() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(10.0)]));
    let service = bed.services().await.register_of::<Configured>("slow").await.unwrap();
    let start = tokio::spawn({
        let service = service.clone();
        async move { service.start().await }
    });
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    assert_eq!((service.state(), service.health().paused), (ServiceState::Starting, true));
    start.await.unwrap().unwrap();
    bed.run_for(secs(200)).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::Paused, 0));
    service.resume().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(log.count("run"), 1);
}

#[tokio::test(start_paused = true)]
async fn pause_between_attempts_of_the_first_configure_delays_the_next_attempt() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Fail, Step::Fail]));
    let service = bed.start_of::<Configured>().await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    service.pause().await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!((service.state(), log.times("configure")), (ServiceState::Paused, vec![0.0]));
    service.resume().await.unwrap();
    bed.run_for(secs(10)).await;
    assert_eq!(log.times("configure"), [0.0, 100.0, 105.0]);
    assert_eq!((service.state(), log.count("run")), (ServiceState::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_pauses_itself() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            cx.pause();
            cx.pause();
            let me = cx.services().get(cx.service_id()).unwrap();
            assert_says(me.pause().await, &["`acting`", "paused already"]);
        }))
        .await;
    bed.run_for(secs(200)).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::Paused, 1));
    assert_eq!(service.health().reason.as_deref(), Some("paused by itself"));
}

#[tokio::test(start_paused = true)]
async fn a_service_pauses_another() {
    let (bed, log) = (TestBed::new(), Log::default());
    let other = bed.start(Scripted::new(&log, &[])).await;
    bed.start(Acting::new(&Log::default(), |cx| async move {
        cx.services().get("scripted").unwrap().pause().await?;
        Ok::<_, Error>(())
    }))
    .await;
    bed.run_for(secs(200)).await;
    assert_eq!((other.state(), log.count("run"), log.count("cleanup")), (ServiceState::Paused, 1, 0));
    assert_eq!(other.health().reason.as_deref(), Some("paused by an operator"), "not by itself");
}

#[tokio::test(start_paused = true)]
async fn a_pause_takes_effect_between_runs_that_follow_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |_| async {
            tokio::time::sleep(secs(1)).await;
            Outcome::processed(1).again()
        }))
        .await;
    bed.run_for(std::time::Duration::from_millis(1500)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(10)).await;
    assert_eq!(log.times("run"), [0.0, 1.0]);
    service.resume().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(log.times("run"), [0.0, 1.0, 11.5, 12.5]);
}

#[tokio::test(start_paused = true)]
async fn pause_and_resume_are_refused_in_the_wrong_state() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.services().await.register("one", Scripted::new(&log, &[])).await.unwrap();
    assert_says(service.pause().await, &["cannot pause service `one`", "not been started", "`start` it first"]);
    assert_says(service.resume().await, &["cannot resume service `one`", "not been started"]);
    service.start().await.unwrap();
    assert_says(service.resume().await, &["cannot resume service `one`", "it is not paused"]);
    service.pause().await.unwrap();
    assert_says(service.pause().await, &["cannot pause service `one`", "paused already"]);
    service.stop().await.unwrap();
    assert_says(service.pause().await, &["cannot pause service `one`", "stopped", "`start` it first"]);
    assert_says(service.resume().await, &["cannot resume service `one`", "stopped"]);
    let failed = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    failed.wait_for(ServiceState::Failed).await.unwrap();
    assert_says(failed.pause().await, &["`scripted`", "failed", "`reset`"]);
    assert_says(failed.resume().await, &["`scripted`", "failed", "`reset`"]);
}

#[tokio::test(start_paused = true)]
async fn pause_all_and_resume_all_skip_services_in_the_wrong_state() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    for id in ["a", "b", "never_started"] {
        let service = services.register(id, Scripted::new(&log, &[])).await.unwrap();
        if id != "never_started" {
            service.start().await.unwrap();
        }
    }
    services.get("b").unwrap().pause().await.unwrap();
    services.pause_all().await;
    let states = |services: &ServiceRegistry| -> Vec<ServiceState> {
        services.health().services.iter().map(|service| service.state).collect()
    };
    assert_eq!(states(&services), [ServiceState::Paused, ServiceState::Paused, ServiceState::Created]);
    services.resume_all().await;
    assert_eq!(states(&services), [ServiceState::Running, ServiceState::Running, ServiceState::Created]);
}
