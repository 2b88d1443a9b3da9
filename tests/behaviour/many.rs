//! A thousand services that a manager registers, stops and unregisters while it runs.

use service_core::HealthStatus;
use service_core::prelude::*;

use crate::acting::{logged, soon};
use crate::support::{Log, secs};

const TENANTS: u32 = 1000;

/// Keeps one service for each tenant. In each run it registers a part of them, or stops or unregisters some.
struct Manager;

#[service(interval = 10, discover = false)]
impl Manager {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let services = cx.services();
        let this = services.get(cx.service_id()).expect("it is registered");
        let id = |number: u32| format!("tenant_{number:03}");
        match u32::try_from(cx.run_number())? {
            run @ 1..=10 => {
                for number in (run - 1) * TENANTS / 10..run * TENANTS / 10 {
                    let tenant = services.register_of::<Tenant>(id(number)).setting("number", number);
                    let tenant = tenant.label("tenant", id(number)).parent(&this).optional().await?;
                    // A tenant that cannot be built is no reason for the manager to fail.
                    let _ = tenant.start().await;
                }
            }
            11 => {
                for number in 0..TENANTS / 5 {
                    services.get(&id(number)).expect("it is registered").stop().await?;
                }
            }
            12 => {
                for number in 0..TENANTS / 10 {
                    services.unregister(&id(number)).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn cleanup(&mut self, cx: &Context) {
        let log = cx.state::<Log>().expect("the bed has one");
        log.push(format!("{} left", cx.services().list().len()));
    }
}

#[derive(serde::Deserialize)]
struct Settings {
    number: u32,
}

/// Every tenth one fails, at once or later.
struct Tenant {
    number: u32,
}

#[service(interval = 1, max_failures = 0, discover = false)]
impl Tenant {
    fn configure(_cx: &Context, settings: Settings) -> Result<Self> {
        let Settings { number } = settings;
        if number % 20 == 10 { Err(Error::msg("there is no such tenant")) } else { Ok(Self { number }) }
    }

    async fn update(&mut self, cx: &Context) -> Result<()> {
        if self.number.is_multiple_of(20) && cx.run_number() > 3 {
            return Err(Error::msg("the tenant is away"));
        }
        Ok(())
    }
}

fn count(health: &service_core::RegistryHealth, state: ServiceState) -> usize {
    health.services.iter().filter(|service| service.state == state).count()
}

#[tokio::test(start_paused = true)]
async fn a_tenth_of_a_thousand_services_fails_and_the_registry_stays_healthy() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone()).set("manager.critical", true);
    let (_lines, _guard) = logged();
    let services = bed.services().await;
    let manager = soon(services.register("manager", Manager).start()).await.unwrap();
    bed.run_for(secs(95)).await;
    let health = services.health();
    assert_eq!((health.services.len(), health.status), (1001, HealthStatus::Healthy));
    assert_eq!(manager.health().error_count, 0, "{:?}", manager.health().last_error);
    assert_eq!((count(&health, ServiceState::Failed), count(&health, ServiceState::Running)), (100, 901));
    let tenant = health.get("tenant_510").unwrap();
    assert_eq!((tenant.status, tenant.labels["tenant"].as_str()), (HealthStatus::Unhealthy, "tenant_510"));

    bed.run_for(secs(10)).await;
    let health = services.health();
    // Of the first 200, 20 have failed, and stay so.
    assert_eq!((count(&health, ServiceState::Stopped), health.status), (180, HealthStatus::Healthy));
    bed.run_for(secs(10)).await;
    let health = services.health();
    assert_eq!((health.services.len(), count(&health, ServiceState::Failed)), (901, 90));
    assert_eq!(health.status, HealthStatus::Healthy);
    assert!(services.get("tenant_999").is_some_and(|tenant| tenant.health().runs > 10));

    soon(manager.stop()).await.unwrap();
    assert_eq!(services.list(), ["manager"]);
    assert_eq!(log.count("1 left"), 1, "none is left when the manager is cleaned up");
}
