//! Services are shared out among the replicas.

use std::time::Duration;

use service_core::prelude::*;
use service_core::testing::TestBed;

use crate::bed::{Bed, on_each};

on_each! {
    a_replica_that_joins_gets_its_share,
    a_service_in_a_run_stays_where_it_is,
    a_service_that_backs_off_does_not_keep_others_where_they_are,
    services_whose_run_was_given_up_stay_where_they_are,
    services_that_are_paused_in_their_process_stay_where_they_are,
    a_replica_on_which_services_are_paused_gets_none,
    a_replica_on_which_a_service_is_paused_leaves_it_to_others,
    a_replica_on_which_a_service_is_paused_takes_it_if_no_other_does,
}

const SERVICES: usize = 6;

struct Job {
    works: Duration,
}

#[service(interval = 30, scope = "cluster", lease = 30, discover = false)]
impl Job {
    async fn update(&mut self, cx: &Context) {
        cx.sleep(self.works).await;
    }
}

async fn start(bed: &TestBed, works: u64) -> Vec<ServiceHandle> {
    let mut handles = Vec::new();
    for _ in 0..SERVICES {
        handles.push(bed.start_fn(move || Job { works: Duration::from_secs(works) }).await);
    }
    handles
}

/// The services that each replica runs.
fn held(replicas: &[&Vec<ServiceHandle>]) -> Vec<usize> {
    let runs = |service: &&ServiceHandle| service.state() == ServiceState::Running;
    replicas.iter().map(|handles| handles.iter().filter(runs).count()).collect()
}

async fn a_replica_that_joins_gets_its_share(replicas: Bed) {
    let here = start(&replicas.bed, 0).await;
    replicas.run_for(1.0).await;
    assert_eq!(held(&[&here]), [SERVICES]);
    let second = replicas.other().await;
    let there = start(&second, 0).await;
    replicas.run_for(180.0).await;
    assert_eq!(held(&[&here, &there]), [3, 3]);
    // Those that have moved stay for ten minutes.
    let third = replicas.other().await;
    let joined = start(&third, 0).await;
    replicas.run_for(180.0).await;
    assert_eq!(held(&[&here, &there, &joined]), [2, 3, 1]);
    replicas.run_for(600.0).await;
    assert_eq!(held(&[&here, &there, &joined]), [2, 2, 2]);
    // No run was lost or made twice: one in each half minute for each service, however often it moved.
    let runs: u64 = [&here, &there, &joined].into_iter().flatten().map(|service| service.health().runs).sum();
    let expected = u64::try_from(SERVICES).unwrap() * (961 / 30 + 1);
    assert!(runs.abs_diff(expected) <= 1, "{runs} runs instead of {expected}");
}

async fn a_service_in_a_run_stays_where_it_is(replicas: Bed) {
    let here = start(&replicas.bed, 10_000).await;
    replicas.run_for(1.0).await;
    let second = replicas.other().await;
    let there = start(&second, 0).await;
    replicas.run_for(300.0).await;
    assert_eq!(held(&[&here, &there]), [SERVICES, 0]);
}

/// Fails in every run.
struct Flaky;

#[service(interval = "1h", scope = "cluster", lease = 30, max_failures = 0, exhausted = "next_run", discover = false)]
impl Flaky {
    async fn update(&mut self) -> Result<()> {
        Err(Error::msg("scripted"))
    }
}

/// Starts two services of this type that fail in every run, with these options.
async fn start_flaky(bed: &TestBed, ids: &[&str], options: ServiceOptions) -> Vec<ServiceHandle> {
    let (services, mut handles) = (bed.services().await, Vec::new());
    for id in ids {
        let flaky = services.register_fn(*id, || Flaky).options(options.clone()).await.unwrap();
        flaky.start().await.unwrap();
        handles.push(flaky);
    }
    handles
}

async fn a_service_that_backs_off_does_not_keep_others_where_they_are(replicas: Bed) {
    // Its id is the first one.
    let (ids, retries) = (["a_flaky"], ServiceOptions::new().max_failures(1_000_000));
    let flaky = start_flaky(&replicas.bed, &ids, retries.clone()).await;
    let here = replicas.bed.start_fn(|| Job { works: Duration::ZERO }).await;
    replicas.run_for(12.0).await;
    assert_eq!((flaky[0].state(), here.state()), (ServiceState::BackingOff, ServiceState::Running));
    let other = replicas.other().await;
    start_flaky(&other, &ids, retries).await;
    let there = other.start_fn(|| Job { works: Duration::ZERO }).await;
    replicas.run_for(180.0).await;
    assert_eq!((flaky[0].state(), here.state()), (ServiceState::BackingOff, ServiceState::Standby));
    assert_eq!(there.state(), ServiceState::Running);
}

async fn services_whose_run_was_given_up_stay_where_they_are(replicas: Bed) {
    let ids = ["one", "two"];
    let here = start_flaky(&replicas.bed, &ids, ServiceOptions::new()).await;
    replicas.run_for(5.0).await;
    let other = replicas.other().await;
    let there = start_flaky(&other, &ids, ServiceOptions::new()).await;
    replicas.run_for(180.0).await;
    assert_eq!(held(&[&here, &there]), [2, 0]);
    for service in here {
        let health = service.health();
        assert_eq!(health.status, HealthStatus::Unhealthy, "{health:?}");
    }
}

async fn services_that_are_paused_in_their_process_stay_where_they_are(replicas: Bed) {
    let here = start(&replicas.bed, 0).await;
    replicas.run_for(1.0).await;
    for service in &here {
        service.pause().await.unwrap();
    }
    let other = replicas.other().await;
    let there = start(&other, 0).await;
    replicas.run_for(180.0).await;
    assert!(here.iter().all(|service| service.state() == ServiceState::Paused));
    assert_eq!(held(&[&there]), [0]);
}

async fn a_replica_on_which_services_are_paused_gets_none(replicas: Bed) {
    let here = start(&replicas.bed, 0).await;
    replicas.run_for(1.0).await;
    let other = replicas.other().await;
    let there = start(&other, 0).await;
    other.services().await.pause_all().await;
    replicas.run_for(180.0).await;
    assert_eq!(held(&[&here]), [SERVICES]);
    assert!(there.iter().all(|service| service.state() == ServiceState::Standby));
    let health = there[0].health();
    let reason = health.reason.unwrap();
    assert_eq!(health.status, HealthStatus::Degraded, "{reason}");
    assert!(reason.contains("; paused by an operator on this replica only"), "{reason}");
    other.services().await.resume_all().await;
    replicas.run_for(180.0).await;
    assert_eq!(held(&[&here, &there]), [3, 3]);
}

async fn a_replica_on_which_a_service_is_paused_leaves_it_to_others(replicas: Bed) {
    let (first, third) = (replicas.other().await, replicas.other().await);
    let mut services = Vec::new();
    // The second one finds a free lease before the third one does.
    for bed in [&first, &replicas.bed, &third] {
        services.push(bed.start_fn(|| Job { works: Duration::ZERO }).await);
    }
    services[1].pause().await.unwrap();
    replicas.run_for(5.0).await;
    services[0].stop().await.unwrap();
    replicas.run_for(10.0).await;
    assert_eq!((services[1].state(), services[2].state()), (ServiceState::Standby, ServiceState::Running));
    services[0].start().await.unwrap();
    services[0].pause().await.unwrap();
    services[1].resume().await.unwrap();
    replicas.bed.kill(third).await;
    replicas.run_for(60.0).await;
    assert_eq!((services[0].state(), services[1].state()), (ServiceState::Standby, ServiceState::Running));
}

async fn a_replica_on_which_a_service_is_paused_takes_it_if_no_other_does(replicas: Bed) {
    let other = replicas.other().await;
    let a = replicas.bed.start_fn(|| Job { works: Duration::ZERO }).await;
    let b = other.start_fn(|| Job { works: Duration::ZERO }).await;
    b.pause().await.unwrap();
    replicas.run_for(5.0).await;
    a.stop().await.unwrap();
    replicas.run_for(20.0).await;
    assert_eq!(b.state(), ServiceState::Paused);
}
