//! [`Coordinator`]: the tasks of one registry that renew its leases, take those that are free, and watch for their end.
//!
//! Renewals and takeovers are tasks of their own, since a takeover may have to wait for a commit of the former holder.
//! The tricky part is an answer that comes late or never. A lease is trusted from the moment when the request was sent,
//! so it ends here before it ends in the database. Nothing that a lost request may still do can end or extend another
//! lease than its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::cluster::fleet::Fleet;
use crate::cluster::lease_table::LeaseTable;
use crate::database::error_kind::ErrorKind;
use crate::database::registry_db::RegistryDb;
use crate::log::debug;
use crate::registry::service_registry::RegistryInner;
use crate::runtime::lease::{Grant, Holder, Lease, LeaseClock};
use crate::runtime::leases::{LeaseRow, Leases};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::registration::RegisteredService;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::single_task::SingleTask;
use crate::service::error::Result;
use crate::service::outcome::RunReport;

/// How often a replica that stands by looks for leases that are free.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a lease has been free before a replica takes it on which the service is paused. Longer than the
/// precedence of a replica to which the service is handed over.
const PAUSED_WAIT: Duration = Duration::from_secs(7);
/// The wait after another replica was faster.
const RACE_INTERVAL: Duration = Duration::from_millis(100);
/// How often a task without work checks that the registry still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How often leases are compared with the clock, which also counts while the machine is suspended, unlike timers.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The limits of a request to the database.
const SHORTEST_LIMIT: Duration = Duration::from_millis(500);
const LONGEST_LIMIT: Duration = Duration::from_secs(5);
const RECORD_LIMIT: Duration = Duration::from_secs(2);
/// How often the release of a lease is tried while another session locks the table.
const RELEASE_TRIES: u32 = 10;
/// A takeover is many statements, and may need more time than a renewal: a lease that it gets too late is released
/// again.
const SHORTEST_TAKEOVER: Duration = Duration::from_secs(2);
/// How long the end of a shutdown waits for a takeover in progress.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Decides, together with the other replicas, which services this one runs.
#[derive(Debug)]
pub(super) struct Coordinator {
    shared: Arc<LeaseTasks>,
    renewing: SingleTask,
    competing: SingleTask,
    watching: SingleTask,
    serving: SingleTask,
    forwarding: SingleTask,
}

#[derive(Debug)]
struct LeaseTasks {
    table: Arc<LeaseTable>,
    fleet: Arc<Fleet>,
    /// Another lease has to be renewed.
    to_renew: Notify,
    /// Another lease may end.
    to_watch: Notify,
    /// A service waits for its lease, or another replica has released one.
    to_compete: Arc<Notify>,
    /// Locked while leases are being taken.
    taking: tokio::sync::Mutex<()>,
}

/// A service with its lease.
type Leased = (Arc<RegisteredService>, Arc<Lease>);

/// How long a lease is trusted after the request for it was sent. The last tenth is not: clocks differ in their rate,
/// and the end of a run takes time.
fn trusted(length: Duration) -> Duration {
    length - length / 10
}

/// The time limit of a request about leases of this length.
fn limit(length: Duration) -> Duration {
    (length / 3).clamp(SHORTEST_LIMIT, LONGEST_LIMIT)
}

impl Coordinator {
    pub(super) fn new(db: RegistryDb, clock: Arc<dyn LeaseClock>) -> Self {
        let to_compete = Arc::new(Notify::new());
        let table = Arc::new(LeaseTable::new(db, clock));
        let fleet = Arc::new(Fleet::new(table.clone(), to_compete.clone()));
        let shared = LeaseTasks {
            table,
            fleet,
            to_renew: Notify::new(),
            to_watch: Notify::new(),
            to_compete,
            taking: tokio::sync::Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            renewing: SingleTask::default(),
            competing: SingleTask::default(),
            watching: SingleTask::default(),
            serving: SingleTask::default(),
            forwarding: SingleTask::default(),
        }
    }
}

impl Leases for Coordinator {
    fn start(&self, registry: Arc<dyn Any + Send + Sync>, services: &Arc<Services>, runtime: &Handle) {
        let Ok(registry) = registry.downcast::<RegistryInner>() else { return };
        if leased(services).is_empty() {
            return;
        }
        let (shared, services) = (|| self.shared.clone(), || Arc::downgrade(services));
        self.renewing.start(runtime, || shared().keep_renewing(services()));
        self.watching.start(runtime, || shared().watch(services()));
        self.competing.start(runtime, || shared().keep_competing(services()));
        self.serving.start(runtime, || self.shared.fleet.clone().keep_serving(Arc::downgrade(&registry)));
        self.forwarding.start(runtime, || self.shared.fleet.clone().keep_forwarding(Arc::downgrade(&registry)));
    }

    fn join(&self) {
        self.shared.fleet.join();
    }

    fn wanted(&self) {
        self.shared.to_compete.notify_one();
        self.shared.fleet.report_soon();
    }

    fn release<'a>(&'a self, service: &'a ServiceInner, epoch: u64, target: Option<&'a str>) -> BoxFuture<'a, ()> {
        let length = service.lease.as_ref().map_or(LONGEST_LIMIT, |lease| lease.length);
        Box::pin(async move { self.shared.release(&service.id, epoch, target, length, RELEASE_TRIES).await })
    }

    fn record_point<'a>(&'a self, service: &'a ServiceInner, epoch: u64, age: Duration) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.shared.table.record_point(&service.id, epoch, age, RECORD_LIMIT).await {
                debug!(service.id = %service.id, "the point of the schedule cannot be recorded, so the grid can move at the next takeover: {error:#}");
            }
        })
    }

    fn request_run<'a>(&'a self, service: &'a ServiceInner) -> BoxFuture<'a, Result<RunReport>> {
        Box::pin(self.shared.fleet.request_run(service))
    }

    fn forward_wake(&self, id: &Arc<str>) {
        self.shared.fleet.forward_wake(id);
    }

    fn reset_others<'a>(&'a self, service: &'a ServiceInner) -> BoxFuture<'a, Result<usize>> {
        Box::pin(self.shared.fleet.reset_others(service))
    }

    fn report_soon(&self) {
        self.shared.fleet.report_soon();
    }

    fn label(&self) -> String {
        self.shared.table.replica.label()
    }

    fn is_own(&self, row: &LeaseRow) -> bool {
        row.owner == self.shared.table.replica.owner
    }

    fn replicas(&self) -> BoxFuture<'_, Result<serde_json::Value>> {
        Box::pin(async { Ok(serde_json::to_value(self.shared.fleet.replicas().await?)?) })
    }

    fn known_replicas(&self, id: &str) -> serde_json::Value {
        serde_json::to_value(self.shared.fleet.known_replicas(id)).unwrap_or_default()
    }

    fn read_leases<'a>(&'a self, ids: &'a [Arc<str>]) -> BoxFuture<'a, Result<BTreeMap<String, LeaseRow>>> {
        Box::pin(self.shared.table.read(ids, LONGEST_LIMIT))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _ = timeout(STOP_LIMIT, self.shared.taking.lock()).await;
            let _ = timeout(STOP_LIMIT, self.shared.fleet.served()).await;
            // Wake-ups that no run has served are for other replicas.
            let _ = timeout(STOP_LIMIT, self.shared.fleet.send_wakes(true)).await;
            let _ = timeout(STOP_LIMIT, self.shared.fleet.leave()).await;
        })
    }
}

/// Returns the services that one replica at a time runs.
fn leased(services: &Services) -> Vec<Leased> {
    let leased = services.all().into_iter().filter_map(|service| {
        let lease = service.inner.lease.clone()?;
        Some((service, lease))
    });
    leased.collect()
}

/// Wakes the loop of a service, and the code that waits in `cx.stopping`.
fn wake(service: &RegisteredService) {
    service.inner.update(|state| {
        state.wake();
        state.notify_waiters();
    });
}

impl LeaseTasks {
    // ── renewals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Renews the leases of this replica, all of them by one statement, until the registry is dropped.
    async fn keep_renewing(self: Arc<Self>, services: Weak<Services>) {
        loop {
            let Some(held) = services.upgrade().map(|services| held(&services)) else { return };
            let Some(shortest) = held.iter().map(|(_, lease, _, _)| lease.length).min() else {
                let _ = timeout(CHECK_INTERVAL, self.to_renew.notified()).await;
                continue;
            };
            let period = shortest / 3;
            let due = |(_, lease, _, left): &Held| left.saturating_sub(trusted(lease.length).saturating_sub(period));
            let due = held.iter().map(due).min().unwrap_or_default();
            if !due.is_zero() {
                let _ = timeout(due, self.to_renew.notified()).await;
                continue;
            }
            let is_renewed = self.renew(&held, limit(shortest)).await.unwrap_or_else(|error| {
                debug!("the leases of services cannot be renewed: {error:#}");
                false
            });
            if !is_renewed {
                tokio::time::sleep((period / 5).clamp(Duration::from_millis(100), POLL_INTERVAL)).await;
            }
        }
    }

    /// Returns `false` if the row of a lease is locked.
    async fn renew(&self, held: &[Held], limit: Duration) -> Result<bool> {
        let ids: Vec<Arc<str>> = held.iter().map(|(service, ..)| service.id().clone()).collect();
        let renewed = self.table.renew(&ids, limit).await?;
        for (service, lease, epoch, _) in held {
            let is_in = |ids: &[String]| ids.iter().any(|id| **id == **service.id());
            if is_in(&renewed.ids) {
                lease.renew(*epoch, renewed.sent + trusted(lease.length));
            } else if !is_in(&renewed.locked) && lease.lose(*epoch) {
                wake(service);
            }
        }
        self.to_watch.notify_one();
        Ok(renewed.locked.is_empty())
    }

    /// Wakes each loop whose lease has ended, until the registry is dropped.
    async fn watch(self: Arc<Self>, services: Weak<Services>) {
        loop {
            let Some(leased) = services.upgrade().map(|services| leased(&services)) else { return };
            let mut next: Option<Duration> = None;
            for (service, lease) in leased {
                match lease.held() {
                    Some((_, left)) if left.is_zero() => wake(&service),
                    Some((_, left)) => next = Some(next.map_or(left, |next| next.min(left))),
                    None => {}
                }
            }
            let next = match next {
                Some(next) if !self.table.db.is_virtual() => next.min(WATCH_INTERVAL),
                Some(next) => next,
                None => CHECK_INTERVAL,
            };
            let _ = timeout(next, self.to_watch.notified()).await;
        }
    }

    async fn release(&self, id: &Arc<str>, epoch: u64, target: Option<&str>, length: Duration, tries: u32) {
        let mut left = tries;
        let released = loop {
            left = left.saturating_sub(1);
            match self.table.release(id, epoch, target, limit(length)).await {
                // Each try waits for a lock for half a second.
                Err(error) if ErrorKind::is_own_wait(&error) && left > 0 => {}
                result => break result,
            }
        };
        match released {
            Ok(()) => self.table.notify_replicas(),
            Err(error) => debug!(service.id = %id, "the lease cannot be released, so it expires: {error:#}"),
        }
    }

    // ── takeovers ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes leases that are free, for the services that wait for one, until the registry is dropped.
    async fn keep_competing(self: Arc<Self>, services: Weak<Services>) {
        loop {
            let wanting = match services.upgrade() {
                None => return,
                Some(services) => {
                    leased(&services).into_iter().filter(|(_, lease)| lease.is_wanted()).collect::<Vec<_>>()
                }
            };
            if wanting.is_empty() {
                let _ = timeout(CHECK_INTERVAL, self.to_compete.notified()).await;
                continue;
            }
            let next = {
                let _taking = self.taking.lock().await;
                self.compete(&wanting).await
            };
            let _ = timeout(next, self.to_compete.notified()).await;
        }
    }

    /// Returns the wait until the next poll. Replicas that were started together do not poll together. On virtual time,
    /// where every poll costs real time, it is the longer the longer the leases last.
    fn poll_interval(&self, first_free: Option<Duration>) -> Duration {
        match first_free {
            Some(left) if self.table.db.is_virtual() => (left / 2).max(POLL_INTERVAL),
            _ if self.table.db.is_virtual() => POLL_INTERVAL,
            _ => POLL_INTERVAL.mul_f64(0.8 + fastrand::f64() / 5.0),
        }
    }

    /// Finds out which leases are free, by one statement, and takes them one by one. Returns the wait until this is due
    /// again.
    async fn compete(&self, wanting: &[Leased]) -> Duration {
        let ids: Vec<Arc<str>> = wanting.iter().map(|(service, _)| service.id().clone()).collect();
        let rows = match self.table.read(&ids, LONGEST_LIMIT).await {
            Ok(rows) => rows,
            Err(error) => {
                let problem = format!("{error:#}");
                for (service, lease) in wanting {
                    if lease.set_problem(problem.clone()) {
                        wake(service);
                    }
                }
                return self.poll_interval(None);
            }
        };
        let (mut free, mut first_free) = (Vec::new(), None::<Duration>);
        for leased in wanting {
            match rows.get(&**leased.0.id()) {
                Some(row) if !row.left.is_zero() && row.owner != self.table.replica.owner => {
                    set_holder(leased, row);
                    first_free = Some(first_free.map_or(row.left, |first| first.min(row.left)));
                }
                // Handed over to another replica, which may take it first.
                Some(row) if row.is_reserved => {
                    set_holder(leased, row);
                    first_free = Some(POLL_INTERVAL);
                }
                // Paused in this process only, it would run on no replica. Another one may take it first.
                _ if is_paused_here(&leased.0) && leased.1.free_for() < PAUSED_WAIT => {
                    first_free = Some(POLL_INTERVAL);
                }
                row => free.push((leased, row.is_none())),
            }
        }
        if !self.table.db.is_virtual() {
            // So that replicas that compete for many leases meet less often.
            fastrand::shuffle(&mut free);
        }
        let mut is_unclear = false;
        for ((service, lease), is_new) in free {
            is_unclear |= lease.is_wanted() && self.take(service, lease, is_new).await;
            if lease.is_wanted() {
                first_free = Some(POLL_INTERVAL);
            }
        }
        // If another replica was faster, there is a holder now.
        if is_unclear { RACE_INTERVAL } else { self.poll_interval(first_free) }
    }

    /// Takes one lease that seems to be free. Returns whether another replica was faster.
    async fn take(&self, service: &RegisteredService, lease: &Lease, is_new: bool) -> bool {
        let id = service.id();
        let limit = limit(lease.length).max(SHORTEST_TAKEOVER);
        match self.table.take(id, is_new, lease.length, limit).await {
            Ok(Some(taken)) => {
                let grant = Grant {
                    epoch: taken.epoch,
                    at: Instant::now(),
                    first: taken.first,
                    last: taken.last,
                    moved: taken.moved,
                };
                if lease.grant(grant, taken.sent + trusted(lease.length)) {
                    wake(service);
                    self.to_renew.notify_one();
                    self.to_watch.notify_one();
                    // Requests may wait for a holder.
                    self.fleet.report_soon();
                } else {
                    // It has been stopped meanwhile, or the answer came too late. Other leases wait for this task.
                    self.release(id, taken.epoch, None, lease.length, 2).await;
                }
                false
            }
            Ok(None) => true,
            Err(error) => {
                debug!(service.id = %id, "the lease cannot be taken: {error:#}");
                if lease.set_problem(format!("{error:#}")) {
                    wake(service);
                }
                false
            }
        }
    }
}

/// A service whose lease this replica has: the epoch, and for how long the lease is still trusted.
type Held = (Arc<RegisteredService>, Arc<Lease>, u64, Duration);

/// Returns the leases that this replica has. One whose time is over is not renewed: it stays lost.
fn held(services: &Services) -> Vec<Held> {
    let held = leased(services).into_iter().filter_map(|(service, lease)| {
        let (epoch, left) = lease.held().filter(|(_, left)| !left.is_zero())?;
        Some((service, lease, epoch, left))
    });
    held.collect()
}

/// Whether the service is paused in this process, and not by an override, which all replicas have.
fn is_paused_here(service: &RegisteredService) -> bool {
    let requests = &service.inner.lock().requests;
    requests.paused.is_some() && requests.paused_by_override.is_none()
}

fn set_holder((service, lease): &Leased, row: &LeaseRow) {
    let now = Instant::now();
    let renewed = now.checked_sub(row.renewed).unwrap_or(now);
    // A lease that lasts longer than one that was renewed just now.
    let is_ahead = row.renewed.is_zero() && row.left > lease.length;
    let ends_late = now.checked_add(row.left).filter(|_| is_ahead);
    let (label, has_handed_over) = (row.label.clone(), row.left.is_zero());
    if lease.set_holder(Holder { label, epoch: row.epoch, renewed, ends_late, seen: now, has_handed_over }) {
        wake(service);
    }
}
