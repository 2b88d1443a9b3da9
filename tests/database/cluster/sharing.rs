//! Services are shared out among the replicas.

use std::time::Duration;

use service_core::prelude::*;
use service_core::testing::TestBed;

use crate::bed::{Bed, on_each};

on_each! {
    a_replica_that_joins_gets_its_share,
    a_service_in_a_run_stays_where_it_is,
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
