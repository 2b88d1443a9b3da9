//! [`App`]: what every handler needs. [`Core`]: what all servers of one registry share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::admin::access::Access;
use crate::admin::error::{ApiError, ApiResult};
use crate::admin::events::EventReaders;
use crate::admin::samples::WorkSamples;
use crate::humanize;
use crate::log::{info, warn};
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::operator_store::{AuditEntry, AuditPage, OperatorStore};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// How many entries of the audit are kept in memory at most.
const AUDIT_IN_MEMORY: usize = 1_000;
/// How long a request waits until the database has taken entries of the audit. Those that it has not taken stay in
/// memory.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for what it reads from the database.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Renders metrics as Prometheus text.
pub(crate) type RenderMetrics = Box<dyn Fn() -> String + Send + Sync>;

/// What all servers of one registry share.
pub(crate) struct Core {
    pub(crate) events: Arc<EventReaders>,
    pub(crate) samples: Arc<WorkSamples>,
    pub(crate) metrics: Vec<RenderMetrics>,
    /// Without a database, the last entries of the audit; with one, those that it has not taken yet. The newest is the
    /// last.
    audit: Mutex<VecDeque<AuditEntry>>,
    /// The time of the newest entry.
    newest: Mutex<SystemTime>,
}

impl Core {
    pub(crate) fn new(metrics: Vec<RenderMetrics>) -> Self {
        Self {
            events: Arc::default(),
            samples: Arc::default(),
            metrics,
            audit: Mutex::default(),
            newest: Mutex::new(SystemTime::UNIX_EPOCH),
        }
    }

    /// Returns the time of a new entry. The clock of a database counts milliseconds: entries of one millisecond stay in
    /// their order.
    fn time_of_entry(&self, now: SystemTime) -> SystemTime {
        let mut newest = self.newest.lock();
        let is_same = newest.duration_since(now).is_ok_and(|ahead| ahead < Duration::from_millis(1));
        *newest = if is_same { *newest + Duration::from_micros(1) } else { now };
        *newest
    }
}

/// What every handler needs.
pub(crate) struct App {
    pub(crate) registry: ServiceRegistry,
    pub(crate) core: Arc<Core>,
    pub(crate) access: Access,
}

pub(crate) type SharedApp = Arc<App>;

impl App {
    pub(crate) fn new(registry: ServiceRegistry, core: Arc<Core>, access: Access) -> SharedApp {
        Arc::new(Self { registry, core, access })
    }

    /// Returns a service.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn service(&self, id: &str) -> ApiResult<ServiceHandle> {
        self.registry.get(id).ok_or_else(|| ApiError::no_service(id))
    }

    /// Returns the present time, by the clock of the services.
    pub(crate) fn now(&self) -> SystemTime {
        self.registry.inner.services.shared.clock.wall_now()
    }

    /// Awaits `work` on the runtime of the services: connections to a database belong to it. If the request is dropped,
    /// the work continues.
    ///
    /// # Errors
    /// That runtime has ended.
    pub(crate) async fn on_home<T, F>(&self, work: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        // Before the first start, on the runtime of the request: a request must not decide where the services run.
        let runtime = self.registry.inner.home.current().unwrap_or_else(Handle::current);
        runtime.spawn(work).await.map_err(|error| ApiError::unavailable(Error::new(error)))
    }

    /// Reads from the database, on the runtime of the services, within 2 s.
    ///
    /// # Errors
    /// Those of [`read_within`](Self::read_within).
    pub(crate) async fn read<T, F>(&self, read: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.read_within(READ_TIMEOUT, read).await
    }

    /// Reads from the database, on the runtime of the services.
    ///
    /// # Errors
    /// An outage is known: then the database is not asked. The read fails, or has no answer in time: the database does
    /// not answer, or that runtime is blocked.
    pub(crate) async fn read_within<T, F>(&self, limit: Duration, read: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let unavailable = |message: String| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message);
        if let Some(outage) = self.registry.inner.extension.resource().and_then(|database| database.outage()) {
            return Err(unavailable(format!("{}: {}", outage.what, outage.why)));
        }
        let begun = std::time::Instant::now();
        let read = async move {
            // After a time in which the runtime was blocked, the requests of that time do not all read at once.
            if begun.elapsed() < limit { Some(read.await) } else { None }
        };
        match tokio::time::timeout(limit, self.on_home(read)).await.unwrap_or(Ok(None))? {
            Some(read) => read.map_err(ApiError::unavailable),
            None => Err(unavailable(format!(
                "no answer within {}: the database does not answer, or the runtime of the services is blocked",
                humanize::long(limit)
            ))),
        }
    }

    pub(crate) fn store(&self) -> Option<Arc<dyn OperatorStore>> {
        self.registry.inner.extension.operator_store()
    }

    /// Records that an operator has changed something. Called on the runtime of the services.
    pub(crate) async fn record(&self, subject: &str, action: &str, detail: String, by: &str, why: &str) {
        let deadline = Instant::now() + AUDIT_TIMEOUT;
        let store = self.store();
        let at = self.core.time_of_entry(self.now_by(store.as_deref(), deadline).await);
        let entry = AuditEntry::new(at, subject, action, detail, by, why);
        match self.registry.inner.services.get(subject) {
            Some(service) => {
                service.inner.log(|| info!(service.id = %subject, "{action} by {by}: {why} {}", entry.detail));
            }
            // A table of work, or the services of a type.
            None => info!(%subject, "{action} by {by}: {why} {}", entry.detail),
        }
        {
            let mut audit = self.core.audit.lock();
            if audit.len() == AUDIT_IN_MEMORY {
                audit.pop_front();
            }
            audit.push_back(entry);
        }
        let Some(store) = store else { return };
        if let Err(error) = self.write_audit(&*store, deadline).await {
            warn!(
                "entries of the audit are not in the database yet, and are lost if this process ends; the next change writes them: \
                 {error:#}"
            );
        }
    }

    /// Returns the time by the database's clock, which all processes share; by that of this process if it does not
    /// answer.
    async fn now_by(&self, store: Option<&dyn OperatorStore>, deadline: Instant) -> SystemTime {
        if let Some(store) = store
            && let Ok(Ok(now)) = tokio::time::timeout_at(deadline, store.now(&self.registry.inner.services)).await
        {
            return now;
        }
        self.now()
    }

    /// Writes the entries that the database has not taken yet, the newest first. Those that it refuses do not keep back
    /// the others.
    async fn write_audit(&self, store: &dyn OperatorStore, deadline: Instant) -> Result<()> {
        let entries: Vec<AuditEntry> = self.core.audit.lock().iter().rev().cloned().collect();
        let write_all = async {
            let mut result = Ok(());
            for entry in &entries {
                match store.record(&self.registry.inner.services, entry).await {
                    Ok(()) => self.core.audit.lock().retain(|kept| kept.id != entry.id),
                    Err(error) => result = Err(error),
                }
            }
            result
        };
        let written = tokio::time::timeout_at(deadline, write_all).await;
        written.unwrap_or_else(|_| Err(Error::msg("no answer in time")))
    }

    /// Returns entries of the audit: of the database, if there is one, and those in memory.
    pub(crate) async fn audit(self: &Arc<Self>, page: AuditPage) -> ApiResult<AuditRead> {
        let mut found = self.audit_in_memory(&page);
        let Some(store) = self.store() else { return Ok(AuditRead { entries: found, missing: None }) };
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let shared = self.clone();
        // Before the limit of the read.
        let deadline = Instant::now() + READ_TIMEOUT * 3 / 4;
        let read = async move {
            let read = store.audit(&page).await;
            // The database answers again.
            if read.is_ok() {
                // If it does not take them, they stay in memory, and are in the answer.
                let _ = shared.write_audit(&*store, deadline).await;
            }
            read
        };
        let read = match self.read(read).await {
            Ok(read) => read,
            Err(error) if found.is_empty() => return Err(error),
            // Those in memory are the latest changes.
            Err(error) => return Ok(AuditRead { entries: found, missing: Some(error) }),
        };
        // An entry whose write had no answer in time may be in both.
        found.retain(|entry| read.iter().all(|known| known.id != entry.id));
        found.extend(read);
        found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
        found.truncate(limit);
        Ok(AuditRead { entries: found, missing: None })
    }

    /// Returns entries in memory, the newest first.
    fn audit_in_memory(&self, page: &AuditPage) -> Vec<AuditEntry> {
        let audit = self.core.audit.lock();
        let is_older = |entry: &&AuditEntry| page.before.as_ref().is_none_or(|before| entry.id < *before);
        let is_of = |entry: &&AuditEntry| page.subject.as_ref().is_none_or(|subject| entry.subject == *subject);
        let found = audit.iter().rev().filter(is_older).filter(is_of);
        found.take(usize::try_from(page.limit).unwrap_or(usize::MAX)).cloned().collect()
    }
}

/// Entries of the audit, the newest first.
pub(crate) struct AuditRead {
    pub(crate) entries: Vec<AuditEntry>,
    /// Why those of the database are missing.
    pub(crate) missing: Option<ApiError>,
}

/// The state of a handler.
pub(crate) type AppState = State<SharedApp>;

#[cfg(all(test, feature = "sqlite"))]
mod tests;
