//! [`Watch`]: looks at the services and decides what to alert about.
//!
//! It compares states, it does not follow events: so nothing is missed when thousands of events arrive in a second, and
//! a run costs nothing for it. A service has at most one alert at a time, and the same alert is repeated after an hour
//! only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin::alerts::alert::{AlertKind, ServiceAlert};
use crate::admin::input::without_controls;
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::registration::RegisteredService;
use crate::runtime::resource::DATABASE;
use crate::schedule::Schedule;
use crate::service::state::ServiceState;

/// After this long, an alert that is not over is sent again.
const REPEAT_AFTER: Duration = Duration::from_secs(3_600);
/// The health of all services costs more to assess than their states.
const HEALTH_EVERY: Duration = Duration::from_secs(10);
/// A service is unhealthy for this long before that is an alert.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(60);
/// An outage that is shorter is no alert.
const OUTAGE_AFTER: Duration = Duration::from_secs(5);

/// What is known from the last look.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The alerts that are not over, by service.
    open: BTreeMap<Arc<str>, Open>,
    /// Since when a service is unhealthy.
    unhealthy: BTreeMap<Arc<str>, Instant>,
    last_health: Option<Instant>,
    outages: BTreeMap<Arc<str>, OpenOutage>,
}

/// An alert that is not over.
#[derive(Debug)]
struct Open {
    kind: AlertKind,
    sent: Instant,
    /// The last success before it.
    last_success: Option<Instant>,
}

/// An outage that is not over.
#[derive(Debug)]
struct OpenOutage {
    since: Instant,
    sent: Option<Instant>,
}

impl Watch {
    /// Looks at all services and resources. Returns the new alerts.
    pub(crate) fn look(&mut self, registry: &ServiceRegistry) -> Vec<ServiceAlert> {
        let now = Instant::now();
        let services = registry.inner.services.all();
        if self.last_health.is_none_or(|last| now.duration_since(last) >= HEALTH_EVERY) {
            self.last_health = Some(now);
            self.look_at_health(registry, &services, now);
        }
        let mut alerts = self.look_at_resources(registry, now);
        for service in &services {
            alerts.extend(self.look_at(registry, service, now));
        }
        let unregistered = self.open.extract_if(.., |id, _| registry.inner.services.get(id).is_none());
        // A receiver may wait for the end of each alert. At a shutdown, services that belong to others are
        // unregistered.
        let over = unregistered.filter(|_| !is_closing(registry)).map(|(id, _)| {
            let summary = format!("service `{id}`: is not registered any more");
            ServiceAlert { service_id: Some(id.to_string()), ..alert(registry, AlertKind::Recovered, summary) }
        });
        alerts.extend(over);
        alerts
    }

    fn look_at_health(&mut self, registry: &ServiceRegistry, services: &[Arc<RegisteredService>], now: Instant) {
        // A failed service has an alert of its own. When it is reset, the time begins anew.
        let is_unhealthy = |service: &&Arc<RegisteredService>| {
            let health = registry.health_of(service);
            health.status == HealthStatus::Unhealthy && health.state != ServiceState::Failed
        };
        let unhealthy = services.iter().filter(is_unhealthy).map(|service| service.id().clone());
        let before = std::mem::take(&mut self.unhealthy);
        self.unhealthy = unhealthy.map(|id| (id.clone(), before.get(&id).copied().unwrap_or(now))).collect();
    }

    fn look_at(
        &mut self,
        registry: &ServiceRegistry,
        service: &RegisteredService,
        now: Instant,
    ) -> Option<ServiceAlert> {
        let id = service.id();
        let view = View::of(service);
        let unhealthy_since = self.unhealthy.get(id);
        let kind = match view.state {
            ServiceState::Failed => Some(AlertKind::Failed),
            // An operator stopped it.
            ServiceState::Created | ServiceState::Stopped if unhealthy_since.is_none() => None,
            _ if view.given_up => Some(AlertKind::GivenUp),
            _ => unhealthy_since
                .filter(|since| now.duration_since(**since) >= UNHEALTHY_AFTER)
                // It may have recovered since its health was read.
                .filter(|_| registry.health_of(service).status == HealthStatus::Unhealthy)
                .map(|_| AlertKind::Unhealthy),
        };
        let open = self.open.get(id);
        let Some(kind) = kind else {
            // At a shutdown, every service ends its work.
            let is_over = view.has_recovered(open?.last_success) && !is_closing(registry);
            if !is_over || unhealthy_since.is_some() {
                return None;
            }
            self.open.remove(id);
            return Some(of_service(registry, service, AlertKind::Recovered));
        };
        if open.is_some_and(|open| open.kind == kind && now.duration_since(open.sent) < REPEAT_AFTER) {
            return None;
        }
        self.open.insert(id.clone(), Open { kind, sent: now, last_success: view.last_success });
        Some(of_service(registry, service, kind))
    }

    fn look_at_resources(&mut self, registry: &ServiceRegistry, now: Instant) -> Vec<ServiceAlert> {
        let mut alerts = Vec::new();
        for resource in &registry.inner.services.resources {
            let name = resource.name();
            let Some(outage) = resource.outage() else {
                if self.outages.remove(name).is_some_and(|outage| outage.sent.is_some()) {
                    let summary = match name.as_ref() {
                        DATABASE => "the database answers again".to_owned(),
                        name => format!("the probe `{name}` succeeds again"),
                    };
                    alerts.push(of_resource(registry, name, AlertKind::OutageOver, summary));
                }
                continue;
            };
            let known = self.outages.entry(name.clone()).or_insert(OpenOutage { since: now, sent: None });
            let is_news = known.sent.is_none_or(|sent| now.duration_since(sent) >= REPEAT_AFTER);
            if is_news && now.duration_since(known.since) >= OUTAGE_AFTER {
                known.sent = Some(now);
                let summary = format!("{}: {}", outage.what, outage.why);
                alerts.push(of_resource(registry, name, AlertKind::Outage, summary));
            }
        }
        alerts
    }
}

/// The part of a service's state that decides.
struct View {
    state: ServiceState,
    given_up: bool,
    failures: u32,
    in_run: bool,
    is_stable: bool,
    last_success: Option<Instant>,
    has_regular_runs: bool,
}

impl View {
    fn of(service: &RegisteredService) -> Self {
        let state = service.inner.lock();
        let (status, options) = (&state.status, &state.requests.options);
        Self {
            state: state.state(),
            given_up: status.given_up,
            failures: status.since_success,
            in_run: status.in_run(),
            is_stable: status.stable,
            last_success: status.stats.last_success,
            has_regular_runs: matches!(options.schedule, Schedule::Interval(_) | Schedule::Delay(_)),
        }
    }

    /// Whether a service without a reason for an alert has recovered: it has shown that it works, or it is not expected
    /// to work.
    fn has_recovered(&self, success_before: Option<Instant>) -> bool {
        match self.state {
            ServiceState::Starting | ServiceState::BackingOff | ServiceState::Failed => false,
            // A run that hangs still does.
            ServiceState::Paused if self.in_run => false,
            ServiceState::Running if self.last_success != success_before => self.failures == 0,
            // A reset service may fail again at its first run.
            ServiceState::Running if self.in_run => self.is_stable,
            ServiceState::Running => self.failures == 0 && !self.has_regular_runs,
            _ => true,
        }
    }
}

fn is_closing(registry: &ServiceRegistry) -> bool {
    registry.session().closing_for().is_some()
}

fn of_service(registry: &ServiceRegistry, service: &RegisteredService, kind: AlertKind) -> ServiceAlert {
    let health = registry.health_of(service);
    let summary = match (kind, &health) {
        (AlertKind::Recovered, ServiceHealth { state: ServiceState::Running, .. }) => "has recovered".to_owned(),
        (_, ServiceHealth { reason: Some(reason), .. }) => reason.clone(),
        (_, ServiceHealth { state, .. }) => format!("is {state}"),
    };
    let summary = format!("service `{}`: {summary}", health.service_id);
    let service_id = Some(health.service_id.clone());
    ServiceAlert { service_id, health: Some(health), ..alert(registry, kind, summary) }
}

fn of_resource(registry: &ServiceRegistry, name: &str, kind: AlertKind, summary: String) -> ServiceAlert {
    ServiceAlert { resource: Some(name.to_owned()), ..alert(registry, kind, summary) }
}

fn alert(registry: &ServiceRegistry, event: AlertKind, summary: String) -> ServiceAlert {
    let shared = &registry.inner.services.shared;
    ServiceAlert {
        id: format!("{:032x}", fastrand::u128(..)),
        event,
        service_id: None,
        resource: None,
        at: shared.clock.wall_now(),
        summary: without_controls(summary),
        requester_id: shared.requester_id.clone(),
        health: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{Error, Result, ServiceOptions, service};

    struct Switched(Arc<AtomicBool>);

    #[service(crate = crate, interval = 10, retry_delay = 1, max_failures = 1, discover = false)]
    impl Switched {
        async fn update(&mut self) -> Result<()> {
            if self.0.load(Ordering::SeqCst) { Err(Error::msg("out of order\nsince noon\u{1b}")) } else { Ok(()) }
        }
    }

    async fn start(options: ServiceOptions) -> (ServiceRegistry, Arc<AtomicBool>) {
        let broken = Arc::new(AtomicBool::new(false));
        let given = broken.clone();
        let registry = ServiceRegistry::builder()
            .without_discovered()
            .service_fn("switched", move || Switched(given.clone()))
            .options_of("switched", options)
            .build()
            .await
            .unwrap();
        registry.start().await.unwrap();
        (registry, broken)
    }

    /// Looks four times a second, for this many seconds. Returns the alerts.
    async fn look(watch: &mut Watch, registry: &ServiceRegistry, seconds: u64) -> Vec<AlertKind> {
        let mut kinds = Vec::new();
        for _ in 0..seconds * 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            kinds.extend(watch.look(registry).into_iter().map(|alert| alert.event));
        }
        kinds
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_service_is_an_alert_that_is_repeated_after_an_hour_and_ends_with_a_success() {
        let (registry, broken) = start(ServiceOptions::new()).await;
        let mut watch = Watch::default();
        assert_eq!(look(&mut watch, &registry, 25).await, []);
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 3_500).await, [AlertKind::Failed]);
        assert_eq!(look(&mut watch, &registry, 200).await, [AlertKind::Failed]);
        let service = registry.get("switched").unwrap();
        // It fails again: neither over nor new.
        service.reset().await.unwrap();
        assert_eq!(look(&mut watch, &registry, 60).await, []);
        broken.store(false, Ordering::SeqCst);
        service.reset().await.unwrap();
        assert_eq!(look(&mut watch, &registry, 60).await, [AlertKind::Recovered]);
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 60).await, [AlertKind::Failed]);
    }

    #[tokio::test(start_paused = true)]
    async fn runs_that_are_given_up_again_and_again_are_one_alert() {
        let options = ServiceOptions::new().exhausted(crate::Exhausted::NextRun);
        let (registry, broken) = start(options).await;
        let mut watch = Watch::default();
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 600).await, [AlertKind::GivenUp]);
        broken.store(false, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 600).await, [AlertKind::Recovered]);
        // A failure whose retry succeeds is no alert.
        broken.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(10)).await;
        broken.store(false, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 60).await, []);
        // Nor is what an operator stops.
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 60).await, [AlertKind::GivenUp]);
        registry.get("switched").unwrap().stop().await.unwrap();
        assert_eq!(look(&mut watch, &registry, 60).await, [AlertKind::Recovered]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_two_readings_of_health_is_no_other_alert() {
        let (registry, broken) = start(ServiceOptions::new().exhausted(crate::Exhausted::NextRun)).await;
        let mut watch = Watch::default();
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 605).await, [AlertKind::GivenUp]);
        broken.store(false, Ordering::SeqCst);
        registry.get("switched").unwrap().run_now().await.unwrap();
        assert_eq!(look(&mut watch, &registry, 3).await, []);
        assert_eq!(look(&mut watch, &registry, 20).await, [AlertKind::Recovered]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_retries_for_long_is_no_alert_but_a_restart_that_takes_long_is() {
        let options = ServiceOptions::new().restart_on_failure().restart_delay(Duration::from_secs(300));
        let (registry, broken) = start(options).await;
        let mut watch = Watch::default();
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 60).await, []);
        assert_eq!(look(&mut watch, &registry, 120).await, [AlertKind::Unhealthy]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_alert_about_a_service_that_is_unregistered_is_over() {
        let (registry, broken) = start(ServiceOptions::new()).await;
        let mut watch = Watch::default();
        broken.store(true, Ordering::SeqCst);
        assert_eq!(look(&mut watch, &registry, 60).await, [AlertKind::Failed]);
        registry.unregister("switched").await.unwrap();
        let over = watch.look(&registry);
        assert_eq!(over[0].summary, "service `switched`: is not registered any more");
        assert_eq!(
            (over.len(), over[0].event, over[0].service_id.as_deref()),
            (1, AlertKind::Recovered, Some("switched"))
        );
        assert!(watch.look(&registry).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_summary_is_one_line_whatever_the_error_is() {
        let (registry, broken) = start(ServiceOptions::new()).await;
        broken.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let alerts = Watch::default().look(&registry);
        assert_eq!(alerts[0].summary, "service `switched`: failed after 2 failures in a row: out of order since noon ");
    }
}
