//! Failures of a service that runs on one replica at a time, and its state on the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use service_core::prelude::*;
use service_core::testing::TestBed;

use super::Log;
use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs};

on_each! {
    a_service_that_backs_off_keeps_its_lease,
    a_service_that_has_failed_runs_on_another_replica,
    a_reset_on_any_replica_clears_all_of_them,
    a_reset_that_follows_a_failure_at_once_reaches_that_replica,
    a_reset_reaches_a_replica_whose_row_does_not_show_the_failure,
    a_reset_where_nothing_has_failed_is_refused_and_changes_nothing,
    a_reset_starts_a_service_once_on_each_replica,
    the_count_of_failures_belongs_to_the_holder,
    a_critical_service_shuts_down_when_it_has_failed_everywhere,
    a_critical_service_shuts_down_although_it_is_disabled_on_another_replica,
    an_instance_that_cannot_be_built_is_retried_by_the_holder,
    a_replica_that_is_cut_off_loses_its_claims_and_completes_nothing,
}

struct Fragile {
    name: &'static str,
    log: Log,
    fails: Arc<AtomicBool>,
}

#[service(interval = 10, scope = "cluster", lease = 30, max_failures = 2, retry_delay = 5, discover = false)]
impl Fragile {
    async fn update(&mut self) -> Result<()> {
        self.log.add(format!("{} runs", self.name));
        if self.fails.load(Ordering::SeqCst) { Err(Error::msg("scripted")) } else { Ok(()) }
    }
}

struct Setup {
    log: Log,
    fails: Arc<AtomicBool>,
    other: TestBed,
    a: ServiceHandle,
    b: ServiceHandle,
}

async fn start(replicas: &Bed, critical: bool) -> Setup {
    let (log, fails) = (Log::new(), Arc::new(AtomicBool::new(true)));
    let other = replicas.other().await;
    let build = |name: &'static str| {
        let (log, fails) = (log.clone(), fails.clone());
        move || Fragile { name, log: log.clone(), fails: fails.clone() }
    };
    let options = ServiceOptions::new().critical(critical);
    let mut handles = Vec::new();
    for (bed, name) in [(&replicas.bed, "a"), (&other, "b")] {
        let services = bed.services().await;
        let registered = services.register_fn("fragile", build(name)).options(options.clone()).await.unwrap();
        registered.start().await.unwrap();
        handles.push(registered);
    }
    let [a, b] = handles.try_into().unwrap();
    Setup { log, fails, other, a, b }
}

async fn a_service_that_backs_off_keeps_its_lease(replicas: Bed) {
    let setup = start(&replicas, false).await;
    replicas.run_for(3.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::BackingOff, ServiceState::Standby));
    setup.fails.store(false, Ordering::SeqCst);
    replicas.run_for(60.0).await;
    assert_eq!((setup.a.state(), setup.log.times("b runs").len()), (ServiceState::Running, 0));
}

async fn a_service_that_has_failed_runs_on_another_replica(replicas: Bed) {
    let setup = start(&replicas, false).await;
    // Three failures in 10 s.
    replicas.run_for(12.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Running));
    setup.fails.store(false, Ordering::SeqCst);
    setup.b.stop().await.unwrap();
    replicas.run_for(60.0).await;
    assert_eq!(setup.a.state(), ServiceState::Failed, "it does not compete before a reset");
    setup.a.reset().await.unwrap();
    replicas.run_for(5.0).await;
    assert_eq!(setup.a.state(), ServiceState::Running);
}

async fn a_reset_on_any_replica_clears_all_of_them(replicas: Bed) {
    let setup = start(&replicas, false).await;
    replicas.run_for(12.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Running));
    setup.fails.store(false, Ordering::SeqCst);
    // On the replica on which it has not failed.
    setup.b.reset().await.unwrap();
    replicas.run_for(3.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Standby, ServiceState::Running));
    let refused = setup.b.reset().await.unwrap_err().to_string();
    assert!(refused.contains("it has not failed"), "{refused}");
}

async fn a_reset_that_follows_a_failure_at_once_reaches_that_replica(replicas: Bed) {
    let setup = start(&replicas, false).await;
    setup.a.wait_for(ServiceState::Failed).await.unwrap();
    setup.fails.store(false, Ordering::SeqCst);
    setup.b.reset().await.unwrap();
    replicas.run_for(5.0).await;
    assert_ne!(setup.a.state(), ServiceState::Failed);
}

async fn a_reset_reaches_a_replica_whose_row_does_not_show_the_failure(replicas: Bed) {
    let setup = start(&replicas, false).await;
    replicas.run_for(12.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Running));
    setup.fails.store(false, Ordering::SeqCst);
    // The row is written again after a minute.
    replicas
        .execute(
            "UPDATE service_replica SET services = replace(services, '\"state\":\"failed\"', '\"state\":\"standby\"')",
        )
        .await;
    // No failure is known, so the call is an error.
    let refused = setup.b.reset().await.unwrap_err().to_string();
    assert!(refused.contains("it has not failed"), "{refused}");
    replicas.run_for(3.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Standby, ServiceState::Running));
}

async fn a_reset_where_nothing_has_failed_is_refused_and_changes_nothing(replicas: Bed) {
    let setup = start(&replicas, false).await;
    setup.fails.store(false, Ordering::SeqCst);
    replicas.run_for(12.0).await;
    let states = (ServiceState::Running, ServiceState::Standby);
    assert_eq!((setup.a.state(), setup.b.state()), states);
    for service in [&setup.a, &setup.b] {
        let refused = service.reset().await.unwrap_err().to_string();
        assert!(refused.contains("it has not failed"), "{refused}");
    }
    replicas.run_for(3.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), states);
    // A failure that follows is not reset by those requests.
    let runs = || (setup.log.times("a runs").len(), setup.log.times("b runs").len());
    let before = runs();
    setup.fails.store(true, Ordering::SeqCst);
    replicas.run_for(100.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Failed));
    assert_eq!(runs(), (before.0 + 3, before.1 + 3), "{:?}", setup.log.all());
}

async fn a_reset_starts_a_service_once_on_each_replica(replicas: Bed) {
    let setup = start(&replicas, false).await;
    let runs = || (setup.log.times("a runs").len(), setup.log.times("b runs").len());
    let have_failed = || (setup.a.state(), setup.b.state()) == (ServiceState::Failed, ServiceState::Failed);
    replicas.run_for(60.0).await;
    assert!(have_failed(), "{:?}", setup.log.all());
    // The third failure in a row is one too many.
    assert_eq!(runs(), (3, 3), "{:?}", setup.log.all());
    setup.a.reset().await.unwrap();
    replicas.run_for(180.0).await;
    assert!(have_failed(), "{:?}", setup.log.all());
    assert_eq!(runs(), (6, 6), "{:?}", setup.log.all());
}

async fn the_count_of_failures_belongs_to_the_holder(replicas: Bed) {
    let setup = start(&replicas, false).await;
    replicas.run_for(7.0).await;
    assert_eq!(setup.a.health().failures, 2);
    setup.a.stop().await.unwrap();
    replicas.run_for(5.0).await;
    assert_eq!(setup.b.health().failures, 1, "{:?}", setup.log.all());
}

async fn a_critical_service_shuts_down_when_it_has_failed_everywhere(replicas: Bed) {
    let setup = start(&replicas, true).await;
    let (here, there) = (replicas.bed.services().await, setup.other.services().await);
    replicas.run_for(12.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Running));
    let stopping = here.clone();
    let stopping = tokio::spawn(async move { stopping.stopping().await });
    tokio::task::yield_now().await;
    assert!(!stopping.is_finished(), "another replica runs it");
    // The former holder has served the point at 10 s, so this one runs from 20 s on.
    replicas.run_for(20.0).await;
    assert_eq!(setup.b.state(), ServiceState::Failed);
    replicas.run_for(120.0).await;
    for services in [here, there] {
        let error = services.closed().await.unwrap_err().to_string();
        assert!(error.contains("service `fragile` failed"), "{error}");
    }
}

async fn a_critical_service_shuts_down_although_it_is_disabled_on_another_replica(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let build = || Fragile { name: "a", log: Log::new(), fails: Arc::new(AtomicBool::new(true)) };
    let options = ServiceOptions::new().critical(true);
    let there = other.services().await;
    there.register_fn("fragile", build).options(options.clone().enabled(false)).await.unwrap();
    super::start(&other, "b", &log, 0.0).await;
    let here = replicas.bed.services().await;
    let a = here.register_fn("fragile", build).options(options).await.unwrap();
    a.start().await.unwrap();
    let stopping = tokio::spawn(async move { here.stopping().await });
    replicas.run_for(150.0).await;
    assert_eq!(there.get("fragile").unwrap().state(), ServiceState::Created);
    assert_eq!(a.state(), ServiceState::Failed);
    assert!(stopping.is_finished(), "no replica can run it");
}

async fn an_instance_that_cannot_be_built_is_retried_by_the_holder(replicas: Bed) {
    let (fails, other) = (Arc::new(AtomicBool::new(true)), replicas.other().await);
    let build = |log: Log, name: &'static str| {
        let fails = fails.clone();
        move || -> Result<Fragile> {
            log.add(format!("{name} builds"));
            if fails.load(Ordering::SeqCst) {
                return Err(Error::msg("not yet"));
            }
            Ok(Fragile { name, log: log.clone(), fails: fails.clone() })
        }
    };
    let log = Log::new();
    let a = replicas.bed.start_fn(build(log.clone(), "a")).await;
    let b = other.start_fn(build(log.clone(), "b")).await;
    replicas.bed.run_for(Duration::from_secs(3)).await;
    assert_eq!((a.state(), b.state()), (ServiceState::BackingOff, ServiceState::Standby));
    fails.store(false, Ordering::SeqCst);
    replicas.bed.run_for(Duration::from_secs(20)).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    assert_eq!(log.times("b builds"), [0.0; 0], "a replica that stands by builds nothing");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_service_is_logged() {
    let (lines, _guard) = crate::log::Log::listen();
    let replicas = Bed::memory().await.unwrap();
    let setup = start(&replicas, false).await;
    replicas.run_for(40.0).await;
    assert_eq!((setup.a.state(), setup.b.state()), (ServiceState::Failed, ServiceState::Failed));
    let logged = lines.lines();
    let ended = logged.iter().filter(|line| line.contains("no service runs any more")).count();
    // Of each replica, as each has one service.
    assert_eq!(ended, 2, "{logged:?}");
}

/// Its items take a long time.
struct Slow {
    name: &'static str,
    log: Log,
    works: Duration,
}

#[service(interval = 10, discover = false)]
impl Slow {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let (log, name, works) = (&self.log, self.name, self.works);
        let claim = cx.claim_each::<job::Entity>(1).lease(Duration::from_secs(60));
        claim
            .for_each(async |item| {
                log.add(format!("{name} has {}", item.model().id));
                tokio::time::sleep(works).await;
            })
            .await
    }
}

async fn a_replica_that_is_cut_off_loses_its_claims_and_completes_nothing(replicas: Bed) {
    jobs(&replicas.db, 1).await;
    let (log, other) = (Log::new(), replicas.other().await);
    let slow = |name, works| {
        let log = log.clone();
        move || Slow { name, log: log.clone(), works: Duration::from_secs(works) }
    };
    replicas.bed.start_fn(slow("a", 600)).await;
    replicas.run_for(10.0).await;
    other.start_fn(slow("b", 1)).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(120.0).await;
    assert_eq!((log.times("a has 1").len(), log.times("b has 1").len()), (1, 1), "{:?}", log.all());
    assert_eq!(replicas.number("SELECT count(*) FROM job WHERE status = 'completed'").await, 1);
}
