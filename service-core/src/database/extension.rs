//! [`DatabaseExtension`]: the part of the database in the loop of every service.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use sea_orm::DbBackend;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::{Row, Sources};
use crate::database::availability::Availability;
use crate::database::catch_up::{LastRun, last_run, set_last_run_by};
use crate::database::config::watcher::TableWatcher;
use crate::database::error_kind::no_answer;
use crate::database::limited;
use crate::database::operator_store::DatabaseOperatorStore;
use crate::database::registry_db::RegistryDb;
use crate::database::registry_pool::RegistryPool;
use crate::database::resource::DatabaseResource;
use crate::database::service_db::ServiceDb;
use crate::database::tx_context::TxContext;
#[cfg(feature = "postgres")]
use crate::database::wake::listener::Listener;
use crate::database::wake::notifier::Notifier;
use crate::database::wake::sender::{keep_sending, send_rest};
use crate::database::wall_clock::WallClock;
use crate::database::work::retained::RetainedTables;
use crate::database::work::work_state::{LeftOutSummary, WorkState};
use crate::database::write_lock::WriteLock;
use crate::runtime::extension::Extension;
use crate::runtime::leases::Leases;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::operator_store::OperatorStore;
use crate::runtime::resource::{DATABASE, Resource};
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::single_task::SingleTask;
use crate::schedule::CronSchedule;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// The name of the registry where a service's id is stored.
const REGISTRY: &str = "service_core";
/// How often the registry checks whether completed rows are to be deleted.
const RETENTION_CHECK: Duration = Duration::from_secs(10);
/// The time limit for reading the last fire.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// The database of one registry.
#[derive(Debug)]
pub(crate) struct DatabaseExtension {
    resource: Arc<DatabaseResource>,
    write_lock: WriteLock,
    retained: Arc<RetainedTables>,
    deleting: SingleTask,
    notifier: Arc<Notifier>,
    sending: SingleTask,
    /// What decides which replica runs a service, if something does.
    leases: OnceLock<Arc<dyn Leases>>,
    operator_store: OnceLock<Arc<DatabaseOperatorStore>>,
    /// What the single runs of a test bed know of the tables of work, by service. Each run registers its service.
    work_in_bed: Mutex<BTreeMap<Arc<str>, LastSingleRun>>,
    #[cfg(feature = "postgres")]
    listener: Option<Listener>,
}

/// The service of a test bed's last single run, and what that run knew of the tables of work.
#[derive(Debug)]
struct LastSingleRun {
    service: Weak<ServiceInner>,
    work: Arc<WorkState>,
}

impl DatabaseExtension {
    pub(crate) fn new(pool: RegistryPool, availability: Availability) -> Self {
        let watcher = Arc::new(TableWatcher::new(pool, availability));
        let notifier = Notifier::new(watcher.pool.db.clone());
        Self {
            resource: Arc::new(DatabaseResource { name: Arc::from(DATABASE), watcher, services: OnceLock::new() }),
            write_lock: WriteLock::default(),
            retained: Arc::default(),
            deleting: SingleTask::default(),
            notifier,
            sending: SingleTask::default(),
            leases: OnceLock::new(),
            operator_store: OnceLock::new(),
            work_in_bed: Mutex::default(),
            #[cfg(feature = "postgres")]
            listener: None,
        }
    }

    /// Listens for notifications: through `direct` if the database is behind a pooler.
    ///
    /// # Errors
    /// `direct` is set, and the database is not PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(crate) fn with_listener(self, direct: Option<sea_orm::sqlx::postgres::PgConnectOptions>) -> Result<Self> {
        let needs_postgres = direct.is_some();
        let listener = Listener::new(self.watcher(), &self.notifier, direct);
        if needs_postgres && listener.is_none() {
            return Err(Error::fatal("`database_direct_url` needs a PostgreSQL database: remove it"));
        }
        let listener = listener.filter(|_| self.reaches_other_replicas());
        Ok(Self { listener, ..self })
    }

    /// Installs what decides which replica runs a service, once.
    pub(crate) fn install_leases(&self, leases: Arc<dyn Leases>) {
        self.notifier.forward_by(&leases);
        // Until the listener knows better.
        self.notifier.set_arrive(self.has_listener());
        let _ = self.leases.set(leases);
    }

    /// The database for the registry's own work.
    pub(crate) fn registry_db(&self) -> RegistryDb {
        RegistryDb {
            watcher: self.watcher().clone(),
            notifier: self.notifier.clone(),
            write_lock: self.write_lock.clone(),
            monitor: self.pool().monitor.as_ref().map(|monitor| Arc::new(monitor.for_registry())),
        }
    }

    fn has_listener(&self) -> bool {
        #[cfg(feature = "postgres")]
        return self.listener.is_some();
        #[cfg(not(feature = "postgres"))]
        false
    }

    fn watcher(&self) -> &Arc<TableWatcher> {
        &self.resource.watcher
    }

    fn pool(&self) -> &RegistryPool {
        &self.watcher().pool
    }

    fn availability(&self) -> &Availability {
        &self.watcher().availability
    }

    /// Whether notifications reach other replicas. On virtual time there are none.
    fn reaches_other_replicas(&self) -> bool {
        self.pool().db.get_database_backend() == DbBackend::Postgres && !self.pool().is_virtual
    }

    /// Access to the database for a service, or for the registry's own work.
    fn service_db(&self, services: &Arc<Services>, id: Arc<str>) -> ServiceDb {
        let shared = services.shared.clone();
        let clock = WallClock::new(move || shared.clock.wall_now().into());
        let pool = self.pool();
        let mut db = ServiceDb::new(pool.db.clone(), id);
        db.tx = TxContext {
            pool_is_checked: pool.is_checked(),
            write_lock: self.write_lock.clone(),
            notifier: self.notifier.clone(),
            monitor: pool.monitor.clone(),
            ..db.tx
        };
        db.services = Arc::downgrade(services);
        db.tables = self.availability().tables().clone();
        db.retained = self.retained.clone();
        if pool.is_virtual { db.with_clock(clock) } else { db.with_row_clock(clock) }
    }

    async fn read_last_fire(&self, id: &str, schedule: &str, now: SystemTime) -> Result<SystemTime> {
        let read = self.pool().with_db(|db| async move {
            self.availability().tables().ensure(&db).await?;
            let tx = self.pool().begin(&db).await?;
            let last = last_run(&tx, id).await?;
            // A row of an earlier version has no schedule.
            if let Some(fire) = last.fire
                && last.schedule.is_none_or(|known| known == schedule)
            {
                limited::commit(tx).await?;
                return Ok(fire.into());
            }
            // From the first start with this schedule on, fires can be missed.
            let first = LastRun { run: None, fire: Some(now.into()), schedule: Some(schedule.to_owned()) };
            set_last_run_by(&tx, id, &first, now.into()).await?;
            limited::commit(tx).await?;
            Ok(now)
        });
        read.await
    }
}

impl Extension for DatabaseExtension {
    fn remembers_fires(&self) -> bool {
        true
    }

    fn resource(&self) -> Option<Arc<dyn Resource>> {
        Some(self.resource.clone())
    }

    fn hold_configuration(&self) -> BoxFuture<'_, Box<dyn Send + '_>> {
        Box::pin(async { Box::new(self.watcher().hold().await) as Box<dyn Send> })
    }

    fn rows(&self, sources: &Sources, service: &str) -> Vec<Row> {
        self.watcher().rows.in_effect(sources, service)
    }

    fn apply_rows_again(&self, services: &Services) {
        self.watcher().rows.apply_again(services);
    }

    fn registered(&self, services: &Arc<Services>, service: &Arc<ServiceInner>) {
        // The same registry each time.
        let _ = self.resource.services.set(Arc::downgrade(services));
        self.notifier.attach(services);
        let mut db = self.service_db(services, service.id.clone());
        if services.shared.polls.is_some() {
            let mut known = self.work_in_bed.lock();
            if let Some(last) = known.get(&service.id) {
                // Of two runs at the same time, each knows what it has met itself.
                let is_in_run = last.service.upgrade().is_some_and(|last| last.lock().status.in_run());
                db.work = if is_in_run { db.work } else { last.work.clone() };
            }
            let last = LastSingleRun { service: Arc::downgrade(service), work: db.work.clone() };
            known.insert(service.id.clone(), last);
        }
        // Cannot fail: a service is registered once.
        let _ = service.extension_data.set(Box::new(db));
    }

    fn before_all<'a>(&'a self, services: &'a Arc<Services>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.watcher().poll_before_start(services))
    }

    fn before_one<'a>(&'a self, services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(self.watcher().poll_if_up(services))
    }

    fn send_rest(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.reaches_other_replicas() {
                send_rest(&self.notifier, self.watcher()).await;
            }
        })
    }

    fn keep_watching(&self, services: &Arc<Services>, runtime: &Handle) {
        self.watcher().keep_watching(services, runtime);
        #[cfg(feature = "postgres")]
        if let Some(listener) = &self.listener {
            listener.keep_listening(services, runtime);
        }
        let (db, watcher) = (self.service_db(services, REGISTRY.into()), self.watcher().clone());
        let services = Arc::downgrade(services);
        if self.reaches_other_replicas() {
            let (notifier, watcher, services) = (self.notifier.clone(), watcher.clone(), services.clone());
            self.sending.start(runtime, || async move { keep_sending(&notifier, &watcher, &services).await });
        }
        self.deleting.start(runtime, || async move {
            while services.strong_count() > 0 {
                tokio::time::sleep(RETENTION_CHECK).await;
                if watcher.availability.is_down() {
                    db.retained.postpone_due();
                } else {
                    db.delete_retained().await;
                }
            }
        });
    }

    fn until_listening<'a>(&'a self, services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        #[cfg(feature = "postgres")]
        if let Some(listener) = &self.listener {
            return Box::pin(listener.until_listening(services));
        }
        let _ = services;
        Box::pin(std::future::ready(()))
    }

    fn start_notifies(&self) -> bool {
        true
    }

    fn notify(&self, services: &Services, topic: &str) {
        self.notifier.wake(services, topic);
        if self.reaches_other_replicas() {
            self.notifier.send_later(topic);
        }
    }

    fn refresh<'a>(&'a self, services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if self.watcher().poll_regularly(services).await {
                self.service_db(services, REGISTRY.into()).delete_retained().await;
            } else {
                self.retained.postpone_due();
            }
        })
    }

    fn refresh_due(&self, services: &Services) -> Option<SystemTime> {
        let deletion = self
            .retained
            .next_due()
            .map(|due| services.shared.clock.wall_now() + due.saturating_duration_since(Instant::now()));
        self.watcher().next_due(services).into_iter().chain(deletion).min()
    }

    fn commit_in_progress(&self, service: &ServiceInner) -> bool {
        ServiceDb::of(service).is_some_and(|db| db.commits().in_progress())
    }

    fn has_unsettled(&self, service: &ServiceInner) -> bool {
        ServiceDb::of(service).is_some_and(|db| db.work.has_unsettled())
    }

    fn settle<'a>(&'a self, service: &'a ServiceInner, error: Option<&'a Error>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match ServiceDb::of(service) {
                Some(db) => db.settle_run(error).await,
                None => Ok(()),
            }
        })
    }

    fn abandon<'a>(&'a self, service: &'a ServiceInner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match ServiceDb::of(service) {
                Some(db) => db.abandon().await,
                None => Ok(()),
            }
        })
    }

    fn last_fire<'a>(
        &'a self,
        service: &'a ServiceInner,
        schedule: &'a CronSchedule,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<SystemTime>> {
        if let Some(db) = ServiceDb::of(service) {
            // Such a service cannot start without the database.
            db.mark_used();
        }
        Box::pin(async move {
            let schedule = schedule.text();
            let read = tokio::time::timeout(READ_TIMEOUT, self.read_last_fire(&service.id, &schedule, now));
            read.await.unwrap_or_else(|_| Err(no_answer(READ_TIMEOUT)))
        })
    }

    fn record_fire<'a>(
        &'a self,
        service: &'a ServiceInner,
        schedule: &'a CronSchedule,
        fire: SystemTime,
        started: Option<SystemTime>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (run, fire) = (started.map(Into::into), Some(fire.into()));
            let last = &LastRun { run, fire, schedule: Some(schedule.text()) };
            let recorded = self.watcher().record_last_run(&service.shared.clock, &service.id, last).await;
            if recorded.is_err() {
                self.availability().probe_soon();
            }
            recorded
        })
    }

    fn operator_store(&self) -> Option<Arc<dyn OperatorStore>> {
        let store = self.operator_store.get_or_init(|| Arc::new(DatabaseOperatorStore::new(self.watcher().clone())));
        Some(store.clone())
    }

    fn leases(&self) -> Option<&Arc<dyn Leases>> {
        self.leases.get()
    }

    fn is_down(&self) -> bool {
        self.availability().is_down()
    }

    fn degradation(&self, service: &ServiceInner) -> Option<String> {
        let left_out = ServiceDb::of(service)?.work.left_out_rows();
        let texts = left_out.iter().map(|rows| {
            let LeftOutSummary { table, count, key, reason } = rows;
            format!("{count} row(s) of `{table}` are left out of claims, such as {key}: {reason}")
        });
        let text = texts.collect::<Vec<_>>().join("; ");
        (!text.is_empty()).then_some(text)
    }
}
