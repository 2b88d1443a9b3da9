//! Probes: while a resource is down, the failures of the services that need it do not exhaust them.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use service_core::prelude::*;
use service_core::{HealthStatus, ServiceOptions};

use crate::support::{Log, secs};

/// An API that is away while this is above zero.
type Away = Arc<AtomicUsize>;

struct Client {
    away: Away,
    log: Log,
}

#[service(interval = 60, max_failures = 2, retry_delay = 20, needs = ["api"], discover = false)]
impl Client {
    async fn update(&mut self) -> Result<()> {
        self.log.push("run");
        match self.away.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(Error::msg("the call failed")),
        }
    }
}

fn bed(away: &Away) -> TestBed {
    let away = away.clone();
    TestBed::new().with(move |builder| {
        builder.probe("api", secs(10), async move || match away.load(Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err("connection refused"),
            2 => std::future::pending().await,
            _ => panic!("the probe is wrong"),
        })
    })
}

#[tokio::test(start_paused = true)]
async fn while_a_probe_fails_the_service_waits_and_retries_at_once_when_it_succeeds() {
    for how in 1..=3 {
        let (away, log) = (Away::default(), Log::default());
        let bed = bed(&away);
        let service = bed.start(Client { away: away.clone(), log: log.clone() }).await;
        bed.run_for(secs(30)).await;
        assert_eq!(service.health().status, HealthStatus::Healthy);
        away.store(how, Ordering::SeqCst);
        bed.run_for(secs(3_600)).await;
        let health = service.health();
        assert_eq!((health.state, health.failures), (ServiceState::BackingOff, 2), "it does not fail");
        let reason = health.reason.unwrap();
        assert!(reason.contains("the probe `api` has failed for "), "{reason}");
        assert_eq!(reason.contains(": connection refused"), how == 1, "{reason}");

        let runs = log.count("run");
        away.store(0, Ordering::SeqCst);
        bed.run_for(secs(10)).await;
        assert_eq!(log.count("run"), runs + 1, "not only after `retry_delay`");
        assert_eq!((service.health().status, service.health().failures), (HealthStatus::Healthy, 0));
    }
}

/// Without retries, a failure that the outage does not cause is the last one.
#[tokio::test(start_paused = true)]
async fn an_outage_does_not_exhaust_a_service_without_retries() {
    let (away, log) = (Away::default(), Log::default());
    let bed = bed(&away);
    let client = Client { away: away.clone(), log: log.clone() };
    let services = bed.services().await;
    let service =
        services.register("client", client).options(ServiceOptions::new().max_failures(0)).start().await.unwrap();
    bed.run_for(secs(30)).await;
    away.store(1, Ordering::SeqCst);
    bed.run_for(secs(3_600)).await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::BackingOff, 1), "it does not fail");

    let runs = log.count("run");
    away.store(0, Ordering::SeqCst);
    bed.run_for(secs(10)).await;
    assert_eq!(log.count("run"), runs + 1, "not only after `retry_delay`");
    assert_eq!(service.health().status, HealthStatus::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_need_the_probe_fails_as_usual() {
    let (away, log) = (Away::default(), Log::default());
    let bed = bed(&away);
    let client = Client { away: away.clone(), log };
    let services = bed.services().await;
    let service =
        services.register("other", client).options(ServiceOptions::new().needs([""; 0])).start().await.unwrap();
    away.store(1, Ordering::SeqCst);
    bed.run_for(secs(3_600)).await;
    assert_eq!(service.state(), ServiceState::Failed);
}

/// An error whose text panics, and whose end does.
#[derive(Debug)]
struct Broken;

impl std::error::Error for Broken {}

impl std::fmt::Display for Broken {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("its text is wrong")
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        panic!("its end is wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_error_panics_is_checked_again() {
    let (away, log) = (Away::default(), Log::default());
    let state = away.clone();
    let bed = TestBed::new().with(|builder| {
        builder.probe("api", secs(10), async move || match state.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(Broken),
        })
    });
    let service = bed.start(Client { away: away.clone(), log }).await;
    away.store(1, Ordering::SeqCst);
    bed.run_for(secs(3_600)).await;
    let reason = service.health().reason.unwrap();
    assert!(reason.contains("the probe `api` has failed for "), "{reason}");
    away.store(0, Ordering::SeqCst);
    bed.run_for(secs(10)).await;
    assert_eq!((service.health().status, service.health().failures), (HealthStatus::Healthy, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_count_while_the_probe_succeeds() {
    let (away, log) = (Away::default(), Log::default());
    let bed = bed(&Away::default());
    let service = bed.start(Client { away: away.clone(), log }).await;
    away.store(1, Ordering::SeqCst);
    bed.run_for(secs(3_600)).await;
    assert_eq!(service.state(), ServiceState::Failed, "the API is there, so the service itself is at fault");
}

#[tokio::test]
async fn unknown_probes_and_wrong_names_are_errors_at_the_start() {
    let build = |needs: &'static str| {
        let client = Client { away: Away::default(), log: Log::default() };
        let builder = ServiceRegistry::builder().without_discovered().service("client", client);
        builder.options_of("client", ServiceOptions::new().needs([needs]))
    };
    let every = Duration::from_secs(10);
    let check = async || Ok::<(), Error>(());
    let error = build("apy").probe("api", every, check).build().await.unwrap_err().to_string();
    assert!(error.contains("`needs` of service `client` (ServiceOptions at tests/behaviour/probes.rs:"), "{error}");
    assert!(error.contains("names the probe `apy`, which the registry does not have; did you mean `api`?"), "{error}");
    let error = build("broker").build().await.unwrap_err().to_string();
    assert!(error.contains("add `.probe(\"broker\", …)` to the builder"), "{error}");
    let error = build("database").build().await.unwrap_err().to_string();
    assert!(error.contains("add a database to the builder"), "{error}");
    let both = build("broker").options_of("client", ServiceOptions::new().depends_on(["clint"]));
    let error = both.build().await.unwrap_err().to_string();
    assert!(error.contains("the probe `broker`") && error.contains("`clint`"), "all mistakes at once: {error}");
    let twice = build("api").probe("api", every, check).probe("api", every, check);
    let error = twice.build().await.unwrap_err().to_string();
    assert!(error.contains("two probes with the name `api`"), "{error}");
    let error = build("api").probe("an api", every, check).build().await.unwrap_err().to_string();
    assert!(error.contains("`an api` is not the name of a probe"), "{error}");
}
