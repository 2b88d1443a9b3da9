//! [`Fleet`]: this replica among the others. It shows the others that it lives, carries out what they request
//! (`fleet/serving.rs`), and requests from them what this replica cannot do itself (`fleet/requesting.rs`).

mod requesting;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, RwLock};
use tokio::time::{Instant, timeout};

use crate::cluster::lease_table::{LeaseTable, as_millis};
use crate::cluster::replica_table::{Replica, ReplicaService};
use crate::cluster::sharing;
use crate::log::{debug, info, warn};
use crate::observe::explain::ExplainedReplica;
use crate::observe::health;
use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::runtime::registration::RegisteredService;
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;
use crate::sync::Mutex;

/// How often a replica writes its row.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The row of a replica is at most this much older than the interval: whether it is due is checked once a second.
const FRESH_MARGIN: Duration = Duration::from_secs(2);
/// A replica that has not written its row for this long does not count as live.
const LIVE: Duration = Duration::from_secs(20);
/// How often a replica looks for requests, if no notification reaches it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The same on virtual time, where every statement costs real time, and notifications arrive.
const VIRTUAL_INTERVAL: Duration = Duration::from_secs(60);
/// How often a task without work checks that the registry still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a service that was handed over stays where it is.
const REST: Duration = Duration::from_secs(600);
/// After some were handed over, others are not before they have been taken.
const SHARE_INTERVAL: Duration = Duration::from_secs(15);
/// The limit of a request to the database.
const LIMIT: Duration = Duration::from_secs(5);

/// This replica among the others.
#[derive(Debug)]
pub(super) struct Fleet {
    table: Arc<LeaseTable>,
    /// Notified when another replica has released a lease, or has requested something.
    announced: Arc<Notify>,
    /// There may be something to report, to carry out or to request.
    to_serve: Notify,
    /// The row of this replica has to be written now.
    to_report: Mutex<bool>,
    /// This replica has started services and has not left, so it has a row.
    is_member: AtomicBool,
    /// Locked while the row is written or removed.
    writing: tokio::sync::Mutex<()>,
    /// Services to be woken on the replica that holds their lease.
    wakes: Mutex<BTreeSet<Arc<str>>>,
    /// When each service was woken so last. Locked while wake-ups are requested.
    sent: tokio::sync::Mutex<BTreeMap<Arc<str>, Instant>>,
    /// The replicas as this one has read them last, and when.
    last_read: Mutex<Option<(Instant, Vec<Replica>)>>,
    /// When services were handed over last.
    shared_out: Mutex<Option<Instant>>,
    /// Leases may be free.
    to_compete: Arc<Notify>,
    /// A request may have been answered.
    answered: Notify,
    /// Locked while requests are carried out.
    serving: tokio::sync::Mutex<()>,
    /// The requests that this replica has carried out or does.
    known: Arc<Mutex<Known>>,
    /// Locked for reading by each task that stores the report of a requested run.
    reporting: Arc<RwLock<()>>,
}

/// Requests, and since when they are known. They are kept for as long as they are
/// stored: if the clock of the database is set back, they are read again.
type Known = BTreeMap<String, Instant>;

/// Since when the row of this replica could not be written, although the database answers.
#[derive(Default)]
struct Unwritten {
    since: Option<Instant>,
    is_reported: bool,
}

impl Unwritten {
    /// Reports it once, when the other replicas no longer see this one.
    fn report(&mut self, error: &Error) {
        debug!("the row of this replica cannot be written: {error:#}");
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LIVE && !std::mem::replace(&mut self.is_reported, true) {
            warn!(
                "the row of this replica in service_replica cannot be written, so the others do not see it: {error:#}"
            );
        }
    }

    fn end(&mut self) {
        if std::mem::take(self).is_reported {
            info!("the row of this replica in service_replica is written again");
        }
    }
}

impl Fleet {
    pub(super) fn new(table: Arc<LeaseTable>, to_compete: Arc<Notify>) -> Self {
        let announced = table.db.notifier.lease_released();
        if let Some(monitor) = &table.db.monitor {
            monitor.add_replica(announced.clone());
        }
        Self {
            table,
            announced,
            to_serve: Notify::new(),
            to_report: Mutex::default(),
            is_member: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
            wakes: Mutex::default(),
            sent: tokio::sync::Mutex::default(),
            last_read: Mutex::default(),
            shared_out: Mutex::default(),
            to_compete,
            answered: Notify::new(),
            serving: tokio::sync::Mutex::default(),
            known: Arc::default(),
            reporting: Arc::default(),
        }
    }

    /// Shows the other replicas that this one lives, and carries out their requests, until the registry is dropped.
    pub(super) async fn keep_serving(self: Arc<Self>, registry: Weak<RegistryInner>) {
        let mut reported: Option<Instant> = None;
        let mut unwritten = Unwritten::default();
        loop {
            let Some(inner) = registry.upgrade() else { return };
            let registry = ServiceRegistry { inner };
            let interval = self.report_interval();
            let is_due = reported.is_none_or(|at| at.elapsed() >= interval);
            if registry.session().is_closed() {
                // Its row has been removed.
                reported = None;
                drop(registry);
                let _ = timeout(interval, self.to_serve.notified()).await;
                continue;
            }
            if !self.is_member.load(Ordering::SeqCst) {
                reported = None;
            } else if std::mem::take(&mut *self.to_report.lock()) || is_due {
                match self.report(&registry).await {
                    Ok(()) => {
                        reported = Some(Instant::now());
                        unwritten.end();
                    }
                    Err(error) if self.table.db.watcher.availability.is_down() => {
                        debug!("the row of this replica cannot be written: {error:#}");
                    }
                    Err(error) => unwritten.report(&error),
                }
            }
            let waits = self.send_wakes(false).await;
            if let Err(error) = self.serve(&registry).await {
                debug!("the requests of other replicas cannot be read: {error:#}");
            }
            drop(registry);
            let wait = if self.table.db.is_virtual() && !waits { VIRTUAL_INTERVAL } else { POLL_INTERVAL };
            let _ = timeout(wait, self.to_serve.notified()).await;
        }
    }

    /// Passes on what other replicas announce, until the registry is dropped. The task that serves requests may be
    /// waiting for the database meanwhile, and a lease that was released is to be taken at once.
    pub(super) async fn keep_forwarding(self: Arc<Self>, registry: Weak<RegistryInner>) {
        while registry.strong_count() > 0 {
            if timeout(CHECK_INTERVAL, self.announced.notified()).await.is_ok() {
                self.to_compete.notify_one();
                self.answered.notify_waiters();
                self.to_serve.notify_one();
            }
        }
    }

    /// The row of this replica is written soon.
    pub(super) fn report_soon(&self) {
        *self.to_report.lock() = true;
        self.to_serve.notify_one();
    }

    /// This replica has a row from now on.
    pub(super) fn join(&self) {
        self.is_member.store(true, Ordering::SeqCst);
        self.report_soon();
    }

    /// Removes the row of this replica, which is not written again before it [joins](Self::join).
    pub(super) async fn leave(&self) {
        self.is_member.store(false, Ordering::SeqCst);
        *self.last_read.lock() = None;
        let _writing = self.writing.lock().await;
        if let Err(error) = self.table.remove_replica(LIMIT).await {
            debug!("the row of this replica cannot be removed: {error:#}");
        }
    }

    fn report_interval(&self) -> Duration {
        if self.table.db.is_virtual() { VIRTUAL_INTERVAL } else { REPORT_INTERVAL }
    }

    fn live(&self) -> Duration {
        if self.table.db.is_virtual() { 2 * VIRTUAL_INTERVAL } else { LIVE }
    }

    /// Returns all replicas.
    pub(super) async fn replicas(&self) -> Result<Vec<Replica>> {
        let replicas = self.table.read_replicas(self.live(), LIMIT).await?;
        *self.last_read.lock() = Some((Instant::now(), replicas.clone()));
        Ok(replicas)
    }

    /// Returns the replicas that have this service, as they were read last.
    pub(super) fn known_replicas(&self, id: &str) -> Vec<ExplainedReplica> {
        let last_read = self.last_read.lock();
        let Some((at, replicas)) = &*last_read else { return Vec::new() };
        let age = at.elapsed();
        let explained = |replica: &Replica| {
            let service = replica.service(id)?;
            Some(ExplainedReplica {
                label: replica.label(),
                is_this: replica.is_this,
                is_live: replica.is_live && age <= self.live(),
                seen_ms_ago: replica.seen_ms_ago.saturating_add(as_millis(age).unsigned_abs()),
                state: service.state,
                status: service.status,
                lease_epoch: service.lease_epoch,
            })
        };
        replicas.iter().filter_map(explained).collect()
    }

    /// Writes the row of this replica, and reads those of all. Shuts the registry down if a critical service is `Failed`
    /// on every replica that has started it.
    async fn report(&self, registry: &ServiceRegistry) -> Result<()> {
        let inner = &registry.inner;
        let services: Vec<Arc<RegisteredService>> = inner.services.all();
        let shown: Vec<ReplicaService> = services.iter().map(|service| shown(registry, service)).collect();
        {
            let _writing = self.writing.lock().await;
            if !self.is_member.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.table.write_replica(&shown, LIMIT).await?;
        }
        if let Err(error) = self.table.remove_old(LIMIT).await {
            debug!("old rows of replicas and requests cannot be removed: {error:#}");
        }
        let replicas = self.replicas().await;
        if let Err(error) = &replicas {
            debug!("the rows of the replicas cannot be read: {error:#}");
        }
        if let Err(error) = self.share_out(registry, replicas.as_deref().unwrap_or_default()).await {
            debug!("services cannot be shared out: {error:#}");
        }
        let is_critical = |service: &&Arc<RegisteredService>| {
            let state = service.inner.lock();
            service.inner.lease.is_some() && state.requests.options.critical && state.state() == ServiceState::Failed
        };
        let critical: Vec<_> = services.iter().filter(is_critical).collect();
        if critical.is_empty() || !registry.session().is_open() {
            return Ok(());
        }
        let replicas = replicas?;
        for service in critical {
            let live = replicas.iter().filter(|replica| replica.is_live);
            let states = live.filter_map(|replica| replica.service(service.id())).map(|service| service.state);
            // A replica on which it is disabled never runs it. One that starts it writes its row only after that.
            let mut states = states.filter(|state| *state != ServiceState::Created);
            if states.all(|state| state == ServiceState::Failed) {
                registry.critical_failure(service.id());
                break;
            }
        }
        // Another replica may fail, too.
        *self.to_report.lock() = !self.table.db.is_virtual();
        Ok(())
    }

    /// Hands services over to replicas that run fewer, as soon as they are idle.
    async fn share_out(&self, registry: &ServiceRegistry, replicas: &[Replica]) -> Result<()> {
        let held: Vec<_> =
            registry.inner.services.all().into_iter().filter(|service| service.inner.lease.is_some()).collect();
        let (mut movable, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|service| {
            let may_move = service.inner.lease.as_ref().is_some_and(|lease| lease.may_move(REST));
            may_move && service.inner.lock().may_be_handed_over()
        });
        for service in others {
            // It may have been chosen before.
            if let Some(lease) = &service.inner.lease {
                lease.set_target(None);
            }
        }
        let rests = self.shared_out.lock().is_some_and(|at| at.elapsed() < SHARE_INTERVAL);
        if movable.is_empty() || replicas.is_empty() || rests {
            return Ok(());
        }
        // Those that are in a run only if there are no others.
        movable.sort_by_key(|service| service.inner.lock().status.in_run());
        let ids: Vec<&str> = movable.iter().map(|service| &**service.id()).collect();
        let counts = self.table.count_leases(LIMIT).await?;
        let chosen = sharing::to_hand_over(counts, &ids, replicas, self.report_interval() + FRESH_MARGIN);
        for service in &movable {
            let target = chosen.get(&**service.id()).copied();
            if service.inner.lease.as_ref().is_some_and(|lease| lease.set_target(target)) {
                service.inner.update(|state| state.wake());
            }
        }
        if !chosen.is_empty() {
            *self.shared_out.lock() = Some(Instant::now());
        }
        Ok(())
    }
}

impl ServiceRegistry {
    /// Returns all replicas on the registry's database that have services with `scope = "cluster"`, with the health of
    /// their services. Each replica writes that every 5 s.
    ///
    /// # Errors
    /// The registry has no database, or the program was built without the feature `cluster`; or the database does not
    /// answer.
    pub async fn replicas(&self) -> Result<Vec<Replica>> {
        let Some(leases) = self.inner.extension.leases() else {
            return Err(Error::msg("the registry has no database that replicas could share: add one to the builder"));
        };
        Ok(serde_json::from_value(self.waiting(leases.replicas()).await?)?)
    }
}

fn shown(registry: &ServiceRegistry, service: &Arc<RegisteredService>) -> ReplicaService {
    let inner = &registry.inner;
    let health = health::of(&service.inner, &inner.services, &*inner.extension);
    ReplicaService {
        service_id: health.service_id,
        state: health.state,
        status: health.status,
        reason: health.reason,
        lease_epoch: service.inner.lease.as_ref().and_then(|lease| lease.epoch()),
    }
}
