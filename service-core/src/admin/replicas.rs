//! The replicas on the registry's database: `GET /replicas`, and what the pages show of them: which replica holds which
//! lease, and what is wrong.
//!
//! The tricky part is a database that does not answer. Then the pages show what this replica knows itself, and say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::admin::app::{App, AppState};
use crate::admin::error::ApiResult;
use crate::humanize::{self, whole};
use crate::observe::health::HealthStatus;
use crate::rfc3339;
use crate::runtime::leases::{LeaseRow, Leases};
use crate::runtime::registration::RegisteredService;
use crate::service::error::Result;
use crate::service::state::ServiceState;

/// `GET /replicas`
pub(crate) async fn replicas(State(app): AppState) -> ApiResult<Json<Value>> {
    // Without leases, no replica knows of others.
    let Some(leases) = app.registry.inner.extension.leases().cloned() else {
        return Ok(Json(Value::Array(Vec::new())));
    };
    app.read(async move { leases.replicas().await }).await.map(Json)
}

/// One replica, as `GET /replicas` has it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Replica {
    pub(crate) id: String,
    host: String,
    pid: u32,
    #[serde(with = "rfc3339")]
    pub(crate) started_at: SystemTime,
    seen_ms_ago: u64,
    is_live: bool,
    pub(crate) is_this: bool,
    pub(crate) services: Vec<ReplicaService>,
}

/// A service on a replica.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ReplicaService {
    pub(crate) service_id: String,
    pub(crate) state: ServiceState,
    pub(crate) status: HealthStatus,
    pub(crate) reason: Option<String>,
}

/// Whether a replica lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Liveness {
    /// It does not write its row, and its leases are still valid: no other replica runs its services yet.
    Silent,
    Alive,
    /// It does not write its row, and has no valid lease.
    Gone,
}

impl Replica {
    /// Its host and process.
    pub(crate) fn label(&self) -> String {
        format!("{} (pid {})", self.host, self.pid)
    }

    /// How long ago it wrote its row.
    pub(crate) fn seen(&self) -> Duration {
        Duration::from_millis(self.seen_ms_ago)
    }

    pub(crate) fn service(&self, id: &str) -> Option<&ReplicaService> {
        self.services.iter().find(|service| service.service_id == id)
    }
}

/// The holder of a lease.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeaseHolder {
    /// The id of the replica, if it is known.
    pub(crate) replica: Option<String>,
    /// Its host and process.
    pub(crate) label: String,
    pub(crate) is_this: bool,
    pub(crate) epoch: u64,
    /// How long ago it renewed the lease, if that is known.
    pub(crate) renewed: Option<Duration>,
}

/// A service with `scope = "cluster"`.
#[derive(Clone, Debug)]
pub(crate) struct ClusterService {
    pub(crate) id: String,
    /// Whether this program has it: another program may share the database.
    pub(crate) is_here: bool,
    pub(crate) status: HealthStatus,
    /// What is wrong.
    pub(crate) reasons: Vec<String>,
    pub(crate) holder: Option<LeaseHolder>,
}

impl ClusterService {
    fn add(&mut self, status: HealthStatus, reason: String) {
        self.status = self.status.max(status);
        self.reasons.push(reason);
    }
}

/// The replicas, and the services with `scope = "cluster"`.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    /// The host and process of this replica.
    pub(crate) this: String,
    /// Those that are silent, those that are alive, those that are gone.
    pub(crate) replicas: Vec<(Liveness, Replica)>,
    /// The worst first.
    pub(crate) services: Vec<ClusterService>,
    /// Why all of this is only what this replica knows itself.
    pub(crate) problem: Option<String>,
}

impl App {
    /// Returns what coordinates the replicas, if a service of this program needs that.
    pub(crate) fn leases(&self) -> Option<Arc<dyn Leases>> {
        let inner = &self.registry.inner;
        let is_clustered = inner.services.all().iter().any(|service| service.inner.lease.is_some());
        inner.extension.leases().filter(|_| is_clustered).cloned()
    }
}

impl Replicas {
    /// Reads them, for all services with `scope = "cluster"` or for one of this program.
    pub(crate) async fn read(app: &App, leases: &Arc<dyn Leases>, only: Option<&str>) -> Self {
        let here: Vec<Arc<RegisteredService>> = app.registry.inner.services.all();
        let is_shown = |service: &Arc<RegisteredService>| only.is_none_or(|only| only == &**service.id());
        let here: Vec<_> = here.into_iter().filter(|it| it.inner.lease.is_some() && is_shown(it)).collect();
        let ids = here.iter().map(|service| service.id().clone()).collect();
        let problem = match app.read(rows(leases.clone(), ids, only.is_none())).await {
            Ok(rows) => return Self::of(app, leases.label(), &here, rows),
            Err(error) => error.message,
        };
        let this = leases.label();
        let mut services: Vec<ClusterService> = here.iter().map(|service| known_here(app, service, &this)).collect();
        sort(&mut services);
        Self { this, replicas: Vec::new(), services, problem: Some(problem) }
    }

    fn of(app: &App, this: String, here: &[Arc<RegisteredService>], (mut replicas, leases): Rows) -> Self {
        // This replica knows its own services better than its row, which may be 5 s old.
        for service in replicas.iter_mut().filter(|replica| replica.is_this).flat_map(|replica| &mut replica.services) {
            if let Some(health) = app.registry.get(&service.service_id).map(|handle| handle.health()) {
                (service.state, service.status, service.reason) = (health.state, health.status, health.reason);
            }
        }
        let assess = |id: &str, is_here| assess(id, is_here, leases.get(id), &replicas);
        let mut services: Vec<ClusterService> = here.iter().map(|service| assess(service.id(), true)).collect();
        // The rows of services that no replica has any more stay.
        let is_alive = |id: &str, lease: &LeaseRow| {
            let mut there = replicas.iter().filter(|replica| replica.is_live).filter_map(|replica| replica.service(id));
            !lease.left.is_zero() || there.any(|it| matches!(it.state, ServiceState::Standby | ServiceState::Failed))
        };
        let elsewhere = leases.iter().filter(|(id, lease)| app.registry.get(id).is_none() && is_alive(id, lease));
        services.extend(elsewhere.map(|(id, _)| assess(id, false)));
        sort(&mut services);
        let with_liveness = |replica: Replica| (liveness(&replica, &leases), replica);
        let mut replicas: Vec<(Liveness, Replica)> = replicas.into_iter().map(with_liveness).collect();
        // Of those that are gone, the last one first.
        replicas.sort_by_key(|(liveness, replica)| {
            (*liveness, (*liveness == Liveness::Gone).then_some(replica.seen_ms_ago))
        });
        Self { this, replicas, services, problem: None }
    }

    /// Whether the service has failed on a replica that lives.
    pub(crate) fn has_failed(&self, id: &str) -> bool {
        let mut live = self.replicas.iter().filter(|(liveness, _)| *liveness == Liveness::Alive);
        live.any(|(_, replica)| replica.service(id).is_some_and(|there| there.state == ServiceState::Failed))
    }
}

fn sort(services: &mut [ClusterService]) {
    services.sort_by(|a, b| b.status.cmp(&a.status).then_with(|| a.id.cmp(&b.id)));
}

type Rows = (Vec<Replica>, BTreeMap<String, LeaseRow>);

/// Reads the rows of the replicas, and the leases of these services and of those that other replicas have.
async fn rows(leases: Arc<dyn Leases>, here: Vec<Arc<str>>, with_others: bool) -> Result<Rows> {
    let replicas: Vec<Replica> = serde_json::from_value(leases.replicas().await?)?;
    // An id has no other characters.
    let is_id = |id: &&str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let elsewhere = replicas.iter().filter(|_| with_others).flat_map(|replica| &replica.services);
    let elsewhere = elsewhere.map(|service| &*service.service_id).filter(is_id).map(Arc::from);
    let ids: BTreeSet<Arc<str>> = here.into_iter().chain(elsewhere).collect();
    let ids: Vec<Arc<str>> = ids.into_iter().collect();
    let rows = leases.read_leases(&ids).await?;
    Ok((replicas, rows))
}

/// What this replica knows of a service without the database.
fn known_here(app: &App, service: &RegisteredService, this: &str) -> ClusterService {
    let health = app.registry.health_of(service);
    let lease = service.inner.lease.as_ref();
    let held = lease.and_then(|lease| lease.epoch()).map(|epoch| LeaseHolder {
        replica: None,
        label: this.to_owned(),
        is_this: true,
        epoch,
        renewed: None,
    });
    let seen = || {
        let holder = lease?.holder().filter(|holder| !holder.has_handed_over)?;
        let renewed = Some(Instant::now().saturating_duration_since(holder.renewed));
        Some(LeaseHolder { replica: None, label: holder.label, is_this: false, epoch: holder.epoch, renewed })
    };
    ClusterService {
        id: health.service_id,
        is_here: true,
        status: health.status,
        reasons: health.reason.into_iter().collect(),
        holder: held.or_else(seen),
    }
}

fn liveness(replica: &Replica, rows: &BTreeMap<String, LeaseRow>) -> Liveness {
    let holds = |row: &LeaseRow| row.owner == replica.id && !row.left.is_zero();
    match () {
        () if replica.is_live => Liveness::Alive,
        () if rows.values().any(holds) => Liveness::Silent,
        () => Liveness::Gone,
    }
}

/// Assesses a service by what all replicas show of it.
fn assess(id: &str, is_here: bool, row: Option<&LeaseRow>, replicas: &[Replica]) -> ClusterService {
    let mut service =
        ClusterService { id: id.to_owned(), is_here, status: HealthStatus::Healthy, reasons: Vec::new(), holder: None };
    let live = || replicas.iter().filter(|replica| replica.is_live);
    let held = row.filter(|row| !row.left.is_zero());
    let holder = held.and_then(|row| replicas.iter().find(|replica| replica.id == row.owner));
    match held {
        None => {
            let stands_by = |replica: &Replica| replica.service(id).is_some_and(|it| it.state == ServiceState::Standby);
            // A replica to which it is handed over takes it soon.
            if !row.is_some_and(|row| row.is_reserved) && live().any(stands_by) {
                let last = row.filter(|row| !row.label.is_empty()).map(|row| format!("; {} held it last", row.label));
                let reason = format!("no replica holds the lease{}", last.unwrap_or_default());
                service.add(HealthStatus::Unhealthy, reason);
            }
        }
        Some(row) => {
            service.holder = Some(LeaseHolder {
                replica: Some(row.owner.clone()),
                label: row.label.clone(),
                is_this: holder.is_some_and(|holder| holder.is_this),
                epoch: row.epoch,
                renewed: Some(row.renewed),
            });
            let left = humanize::long(whole(row.left));
            let silent = holder.filter(|holder| !holder.is_live).map(Replica::seen);
            if let Some(silent) = silent {
                let silent = humanize::long(whole(silent));
                let reason = format!("its holder has been silent for {silent}; the lease expires in {left}");
                service.add(HealthStatus::Degraded, reason);
            } else if row.left < row.renewed {
                // It is renewed when a third of it is over.
                let renewed = humanize::long(whole(row.renewed));
                let reason = format!("the lease has not been renewed for {renewed}; it expires in {left}");
                service.add(HealthStatus::Degraded, reason);
            }
        }
    }
    for replica in live() {
        let Some(there) = replica.service(id) else { continue };
        let is_holder = held.is_some_and(|row| row.owner == replica.id);
        let reason = || format!("on {}: {}", replica.label(), there.reason.as_deref().unwrap_or(there.state.as_str()));
        match there.state {
            // Its row is older than its lease, or the lease has just expired.
            ServiceState::Standby => {}
            _ if is_holder => {
                service.status = service.status.max(there.status);
                if there.status != HealthStatus::Healthy {
                    service.reasons.push(reason());
                }
            }
            ServiceState::Failed => service.add(HealthStatus::Degraded, reason()),
            // No replica runs it, and this one does not either: paused, stopped, disabled.
            _ if held.is_none() => {
                service.status = service.status.max(there.status);
                service.reasons.extend(there.reason.is_some().then(reason));
            }
            _ => {}
        }
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: &str, seen: u64, services: &[(ServiceState, HealthStatus, Option<&str>)]) -> Replica {
        let service = |&(state, status, reason): &(ServiceState, HealthStatus, Option<&str>)| ReplicaService {
            service_id: "invoices".to_owned(),
            state,
            status,
            reason: reason.map(str::to_owned),
        };
        Replica {
            id: id.to_owned(),
            host: id.to_owned(),
            pid: 1,
            started_at: SystemTime::UNIX_EPOCH,
            seen_ms_ago: seen * 1_000,
            is_live: seen <= 20,
            is_this: false,
            services: services.iter().map(service).collect(),
        }
    }

    fn row(owner: &str, renewed: u64, left: u64) -> LeaseRow {
        LeaseRow {
            owner: owner.to_owned(),
            label: format!("{owner} (pid 1)"),
            epoch: 7,
            renewed: Duration::from_secs(renewed),
            left: Duration::from_secs(left),
            is_reserved: false,
        }
    }

    const STANDBY: (ServiceState, HealthStatus, Option<&str>) =
        (ServiceState::Standby, HealthStatus::Healthy, Some("standby: held by a"));
    const RUNNING: (ServiceState, HealthStatus, Option<&str>) = (ServiceState::Running, HealthStatus::Healthy, None);

    #[test]
    fn what_is_wrong_with_a_service_is_found_on_all_replicas() {
        use HealthStatus::{Degraded, Healthy, Unhealthy};
        /// The lease, the replicas a and b, the status, what is wrong.
        type Case = (Option<LeaseRow>, [Replica; 2], HealthStatus, &'static [&'static str]);

        let failed = (ServiceState::Failed, Unhealthy, Some("failed: no disk"));
        let backing_off = (ServiceState::BackingOff, Degraded, Some("backing off"));
        let stopped = (ServiceState::Stopped, Degraded, Some("stopped"));
        let table: [Case; 10] = [
            (Some(row("a", 3, 27)), [replica("a", 1, &[RUNNING]), replica("b", 1, &[STANDBY])], Healthy, &[]),
            // The row of the new holder is older than its lease.
            (Some(row("b", 0, 30)), [replica("a", 1, &[STANDBY]), replica("b", 4, &[STANDBY])], Healthy, &[]),
            (
                Some(row("a", 3, 27)),
                [replica("a", 1, &[backing_off]), replica("b", 1, &[STANDBY])],
                Degraded,
                &["on a (pid 1): backing off"],
            ),
            (
                Some(row("b", 3, 27)),
                [replica("a", 1, &[failed]), replica("b", 1, &[RUNNING])],
                Degraded,
                &["on a (pid 1): failed: no disk"],
            ),
            (
                Some(row("a", 16, 14)),
                [replica("a", 1, &[RUNNING]), replica("b", 1, &[STANDBY])],
                Degraded,
                &["the lease has not been renewed for 16 s; it expires in 14 s"],
            ),
            (
                Some(row("a", 25, 5)),
                [replica("a", 25, &[RUNNING]), replica("b", 1, &[STANDBY])],
                Degraded,
                &["its holder has been silent for 25 s; the lease expires in 5 s"],
            ),
            (
                Some(row("a", 40, 0)),
                [replica("a", 40, &[RUNNING]), replica("b", 1, &[STANDBY])],
                Unhealthy,
                &["no replica holds the lease; a (pid 1) held it last"],
            ),
            (None, [replica("a", 1, &[STANDBY]), replica("b", 1, &[])], Unhealthy, &["no replica holds the lease"]),
            (
                Some(row("a", 40, 0)),
                [replica("a", 1, &[stopped]), replica("b", 1, &[stopped])],
                Degraded,
                &["on a (pid 1): stopped", "on b (pid 1): stopped"],
            ),
            // A replica that is gone says nothing any more.
            (Some(row("b", 3, 27)), [replica("a", 400, &[failed]), replica("b", 1, &[RUNNING])], Healthy, &[]),
        ];
        for (lease, replicas, status, reasons) in table {
            let found = assess("invoices", true, lease.as_ref(), &replicas);
            let reasons: Vec<String> = reasons.iter().map(|why| (*why).to_owned()).collect();
            assert_eq!((found.status, found.reasons), (status, reasons), "{lease:?} {replicas:?}");
            let holder = lease.filter(|lease| !lease.left.is_zero()).map(|lease| lease.owner);
            assert_eq!(found.holder.and_then(|holder| holder.replica), holder);
        }
    }

    #[test]
    fn a_replica_is_gone_when_its_leases_have_expired() {
        let rows = |left: u64| BTreeMap::from([("invoices".to_owned(), row("a", 5, left))]);
        for (id, seen, left, expected) in [
            ("a", 19, 25, Liveness::Alive),
            ("a", 21, 25, Liveness::Silent),
            ("a", 21, 0, Liveness::Gone),
            ("b", 21, 25, Liveness::Gone),
            ("b", 5, 25, Liveness::Alive),
        ] {
            assert_eq!(liveness(&replica(id, seen, &[]), &rows(left)), expected, "{id} {seen} {left}");
        }
    }
}
