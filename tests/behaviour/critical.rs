//! `critical`: when such a service fails permanently, the registry shuts down.

use service_core::prelude::*;

use crate::acting::{assert_says, has_line, logged, soon};
use crate::support::{Log, Scripted, Step, secs};

fn with(bed: TestBed, log: &Log, id: &'static str, script: &[Step], options: ServiceOptions) -> TestBed {
    let scripted = Scripted::new(log, script);
    bed.with(|builder| builder.service(id, scripted).options_of(id, options))
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_critical_service_shuts_the_registry_down() {
    let (log, other) = (Log::default(), Log::default());
    let (lines, _logging) = logged();
    let options = || ServiceOptions::new();
    let bed = with(TestBed::new(), &log, "heart", &[Step::Succeed, Step::Fatal], options().critical(true));
    let bed = with(bed, &other, "limb", &[], options());
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    let over = tokio::spawn(services.clone().until_shutdown());
    bed.run_for(secs(59)).await;
    assert!(!over.is_finished());
    assert_says(soon(over).await.unwrap(), &["service `heart` failed: it is hopeless"]);
    assert_eq!((log.times("cleanup"), other.times("cleanup")), (vec![60.0], vec![60.0]));
    assert_eq!(services.get("limb").unwrap().state(), ServiceState::Stopped);
    assert!(has_line(&lines, &["ERROR", "[heart]", "critical", "shuts down"]), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_retried_does_not_shut_the_registry_down() {
    let log = Log::default();
    let options = ServiceOptions::new().critical(true);
    let bed = with(TestBed::new(), &log, "heart", &[Step::Fail, Step::Fail], options);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(services.get("heart").unwrap().state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn restarts_come_before_the_shutdown() {
    let bed = TestBed::new().set("critical", true).set("restart", "on_failure").set("max_restarts", 1);
    let (log, other) = (Log::default(), Log::default());
    let builder_log = log.clone();
    let service = bed.start_fn(move || Scripted::new(&builder_log, &[Step::Fatal])).await;
    let limb = bed.services().await.register("limb", Scripted::new(&other, &[])).await.unwrap();
    limb.start().await.unwrap();
    bed.run_for(secs(59)).await;
    assert_eq!((service.state(), limb.state()), (ServiceState::BackingOff, ServiceState::Running));
    bed.run_for(secs(2)).await;
    assert_eq!((service.state(), limb.state()), (ServiceState::Failed, ServiceState::Stopped));
    assert_eq!(other.times("cleanup"), [60.0]);
}

#[tokio::test(start_paused = true)]
async fn stopping_a_critical_service_does_not_shut_the_registry_down() {
    let (bed, log) = (TestBed::new().set("critical", true), Log::default());
    let heart = bed.start(Scripted::new(&log, &[])).await;
    let limb = bed.services().await.register("limb", Scripted::new(&log, &[])).await.unwrap();
    limb.start().await.unwrap();
    soon(heart.stop()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(limb.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_critical_service_that_fails_at_the_start_shuts_the_registry_down() {
    let log = Log::default();
    let options = ServiceOptions::new().critical(true);
    let bed = with(TestBed::new(), &log, "heart", &[Step::Fatal], options);
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(10)).await;
    assert_says(soon(services.until_shutdown()).await, &["service `heart` failed"]);
}

/// It is removed with the instance of its parent before the shutdown ends.
#[tokio::test(start_paused = true)]
async fn a_critical_service_that_belongs_to_another_makes_the_shutdown_an_error() {
    let (bed, log) = (TestBed::new(), Log::default());
    let manager = bed.start(Scripted::new(&log, &[])).await;
    let services = bed.services().await;
    let over = tokio::spawn(services.clone().until_shutdown());
    let heart = services.register("heart", Scripted::new(&Log::default(), &[Step::Succeed, Step::Fatal]));
    soon(heart.options(ServiceOptions::new().critical(true)).parent(&manager).start()).await.unwrap();
    bed.run_for(secs(61)).await;
    assert_says(soon(over).await.unwrap(), &["service `heart` failed: it is hopeless"]);
}
