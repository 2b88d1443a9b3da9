//! [`Fleet`]: this replica among the others. It shows the others that it lives, carries out what they request, and requests from
//! the holder of a lease what this replica cannot do itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, RwLock, oneshot};
use tokio::time::{Instant, timeout};

use crate::cluster::lease_table::LeaseTable;
use crate::cluster::replica_table::{FORGOTTEN, Replica, ReplicaService};
use crate::cluster::request_table::{Action, Request, RequestProgress, VOID_AFTER};
use crate::cluster::sharing;
use crate::log::{debug, info, warn};
use crate::observe::health;
use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::runtime::registration::RegisteredService;
use crate::runtime::service_inner::ServiceInner;
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
/// How long the report of a run may follow the end of the lease.
const REPORT_LIMIT: Duration = Duration::from_secs(3);
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
            shared_out: Mutex::default(),
            to_compete,
            answered: Notify::new(),
            serving: tokio::sync::Mutex::default(),
            known: Arc::default(),
            reporting: Arc::default(),
        }
    }

    // ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────

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
        self.table.read_replicas(self.live(), LIMIT).await
    }

    /// Writes the row of this replica. Shuts the registry down if a critical service is `Failed` on every replica
    /// that has started it.
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
        if let Err(error) = self.share_out(registry).await {
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
        let replicas = self.replicas().await?;
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
    async fn share_out(&self, registry: &ServiceRegistry) -> Result<()> {
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
        if movable.is_empty() || rests {
            return Ok(());
        }
        // Those that are in a run only if there are no others.
        movable.sort_by_key(|service| service.inner.lock().status.in_run());
        let ids: Vec<&str> = movable.iter().map(|service| &**service.id()).collect();
        let (counts, replicas) = (self.table.count_leases(LIMIT).await?, self.replicas().await?);
        let chosen = sharing::to_hand_over(counts, &ids, &replicas, self.report_interval() + FRESH_MARGIN);
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

    /// Carries out what other replicas request.
    async fn serve(&self, registry: &ServiceRegistry) -> Result<()> {
        let _serving = self.serving.lock().await;
        let requests = self.table.read_requests(LIMIT).await?;
        self.known.lock().retain(|_, since| since.elapsed() < FORGOTTEN);
        let mut failed = Ok(());
        for request in requests {
            let Some(service) = registry.inner.services.get(&request.service_id) else { continue };
            if let Err(error) = self.serve_one(registry, service, request).await {
                // The others do not wait for it.
                failed = Err(error);
            }
        }
        failed
    }

    async fn serve_one(
        &self,
        registry: &ServiceRegistry,
        service: Arc<RegisteredService>,
        request: Request,
    ) -> Result<()> {
        match request.action {
            Action::Reset => {
                let is_new = self.known.lock().insert(request.id, Instant::now()).is_none();
                if is_new && service.inner.lock().state() == ServiceState::Failed {
                    let handle = registry.handle(service);
                    // Its start may take long. If it fails, the service is `Failed` again.
                    tokio::spawn(async move { _ = handle.reset_here().await });
                }
            }
            // Else another replica takes it, or this one later.
            Action::Wake if service.inner.serves_other_replicas(false) => {
                // If it cannot be removed, it is served once, and its removal is tried again.
                let is_new = self.known.lock().insert(request.version(), Instant::now()).is_none();
                let removed = self.table.remove_wake(&request, LIMIT).await;
                // It may be removed also if the answer is an error. The run begins after the removal.
                if is_new && !service.inner.wake_for_others() {
                    // It has stopped or is handed over since.
                    self.forward_wake(service.id());
                }
                removed?;
                // It is not read again.
                self.known.lock().remove(&request.version());
            }
            Action::Run if !self.is_known(&request.id) && service.inner.serves_other_replicas(true) => {
                if self.table.take_request(&request.id, LIMIT).await? {
                    let id = request.id.clone();
                    self.known.lock().insert(id.clone(), Instant::now());
                    if !self.carry_out(&service.inner, request) {
                        self.known.lock().remove(&id);
                        self.table.give_back(&id, LIMIT).await?;
                    }
                }
            }
            Action::Wake | Action::Run => {}
        }
        Ok(())
    }

    fn is_known(&self, id: &str) -> bool {
        self.known.lock().contains_key(id)
    }

    /// Makes a run that was requested, and stores its report. If the service stops or loses its lease before the run
    /// begins, the next holder makes it. Returns `false` if the service has stopped or is handed over since.
    fn carry_out(&self, service: &Arc<ServiceInner>, request: Request) -> bool {
        let (waiter, report) = oneshot::channel();
        let requested = service.request_next_run(Some(waiter));
        if requested.is_err() && !service.serves_other_replicas(true) {
            return false;
        }
        let (table, known, service) = (self.table.clone(), self.known.clone(), service.clone());
        // An error means that the shutdown waits already.
        let reporting = self.reporting.clone().try_read_owned();
        tokio::spawn(async move {
            let _reporting = reporting;
            let report = match requested {
                Ok(before) => match report.await {
                    Err(_) if service.lock().status.stats.runs == before => None,
                    report => Some(report.map_err(|_| service.ended_before_run())),
                },
                Err(error) => Some(Err(error)),
            };
            let ended = Instant::now();
            let store = async || match &report {
                Some(report) => table.write_report(&request.id, report, LIMIT).await,
                None => table.give_back(&request.id, LIMIT).await,
            };
            while let Err(error) = store().await {
                debug!(service.id = %service.id, "the report of a requested run cannot be stored yet: {error:#}");
                // Who waits for the report gets an error as soon as the lease is lost.
                if ended.elapsed() > VOID_AFTER && !service.lease.as_ref().is_some_and(|lease| lease.is_held()) {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            if report.is_none() {
                // The next holder may be this replica.
                known.lock().remove(&request.id);
                table.notify_replicas();
            }
        });
        true
    }

    /// Waits until the requests that this replica has taken are carried out. Cancelled, it stops none of them.
    pub(super) async fn served(&self) {
        drop(self.serving.lock().await);
        drop(self.reporting.write().await);
    }

    // ── what this replica requests ──────────────────────────────────────────────────────────────────────────────────

    pub(super) async fn request_run(&self, service: &ServiceInner) -> Result<crate::service::outcome::RunReport> {
        let id = self.table.add_request(&service.id, Action::Run, LIMIT).await?;
        let holder = || match service.lease.as_ref().map(|lease| lease.describe_holder()) {
            Some(Ok(holder)) => format!("its lease is {holder}"),
            Some(Err(why)) => why,
            None => "it has no lease".to_owned(),
        };
        let fail = |why: &str| Err(Error::msg(format!("the run of service `{}` {why}; {}", service.id, holder())));
        let (mut lost, mut answered) = (None::<Instant>, Instant::now());
        loop {
            let changed = self.answered.notified();
            match self.table.read_progress(&id, LIMIT).await {
                Ok(RequestProgress::Done(report)) => return Ok(report),
                Ok(RequestProgress::Void) => return fail("was requested, and no replica has taken the request"),
                Ok(RequestProgress::Gone) => {
                    return fail("may still be in progress: its request is no longer stored, so its result is unknown");
                }
                Ok(RequestProgress::Open | RequestProgress::Taken { is_holder: true }) => lost = None,
                Ok(RequestProgress::Taken { is_holder: false }) => _ = lost.get_or_insert_with(Instant::now),
                Err(error) if answered.elapsed() > VOID_AFTER => return Err(error),
                Err(_) => {
                    let _ = timeout(POLL_INTERVAL, changed).await;
                    continue;
                }
            }
            answered = Instant::now();
            // The report may be written after the lease is released.
            if lost.is_some_and(|lost| lost.elapsed() >= REPORT_LIMIT) {
                return fail("may be incomplete: the replica that began it has lost the lease");
            }
            let _ = timeout(POLL_INTERVAL, changed).await;
        }
    }

    pub(super) fn forward_wake(&self, id: &Arc<str>) {
        if self.wakes.lock().insert(id.clone()) {
            self.to_serve.notify_one();
        }
    }

    /// Requests the wake-ups that this replica cannot serve, each service once in a second: `all` of them, or those
    /// that are due. If the database does not answer, later. Returns whether some are left.
    pub(super) async fn send_wakes(&self, all: bool) -> bool {
        let mut sent = self.sent.lock().await;
        sent.retain(|_, at| at.elapsed() < POLL_INTERVAL);
        let due: Vec<_> = self.wakes.lock().extract_if(.., |id| all || !sent.contains_key(id)).collect();
        for id in due {
            match self.table.add_wake(&id, LIMIT).await {
                Ok(()) => _ = sent.insert(id, Instant::now()),
                Err(error) => {
                    debug!(service.id = %id, "the wake-up cannot be forwarded yet: {error:#}");
                    self.wakes.lock().insert(id);
                }
            }
        }
        !self.wakes.lock().is_empty()
    }

    pub(super) async fn reset_others(&self, service: &ServiceInner) -> Result<usize> {
        let replicas = self.replicas().await?;
        let failed = replicas.iter().filter(|replica| !replica.is_this && replica.is_live).filter(|replica| {
            replica.service(&service.id).is_some_and(|service| service.state == ServiceState::Failed)
        });
        let failed = failed.count();
        if failed > 0 {
            self.table.add_request(&service.id, Action::Reset, LIMIT).await?;
        }
        Ok(failed)
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
