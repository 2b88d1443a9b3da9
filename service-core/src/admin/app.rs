//! [`App`]: what every handler needs, and the routes. [`Core`]: what all servers of one registry share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post, put};

use crate::admin::access::{self, Access};
use crate::admin::error::{ApiError, ApiResult};
use crate::admin::events::{self, Events};
use crate::admin::settings::RenderMetrics;
use crate::admin::work::{self, WorkSamples};
use crate::admin::{api, commands, health, metrics, openapi, pages};
use crate::log::{info, warn};
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::operator_store::{AuditEntry, AuditPage, OperatorStore};
use crate::service::error::{Error, Result};

/// How many entries of the audit are kept in memory.
const AUDIT_IN_MEMORY: usize = 1_000;
/// How long a command waits for the database before its entry is only kept in memory.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all servers of one registry share.
pub(crate) struct Core {
    pub(crate) events: Arc<Events>,
    pub(crate) samples: Arc<WorkSamples>,
    pub(crate) metrics: Vec<RenderMetrics>,
    /// The newest entry is the last.
    audit: Mutex<VecDeque<AuditEntry>>,
}

impl Core {
    pub(crate) fn new(metrics: Vec<RenderMetrics>) -> Self {
        Self { events: Arc::default(), samples: Arc::default(), metrics, audit: Mutex::default() }
    }

    /// Called when something is served: from now on services keep their last runs.
    pub(crate) fn activate(&self, registry: &ServiceRegistry) {
        registry.inner.services.keep_runs();
    }

    fn audit(&self) -> MutexGuard<'_, VecDeque<AuditEntry>> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(pages::services))
            .route("/ui/services", get(pages::services))
            .route("/login", get(pages::login).post(pages::log_in))
            .route("/ui/services/{id}", get(pages::service))
            .route("/ui/services/{id}/commands", post(pages::command))
            .route("/ui/services/{id}/overrides", post(pages::change_override))
            .route("/ui/work", get(pages::work))
            .route("/ui/work/{table}", get(pages::failed_rows))
            .route("/ui/work/{table}/retry", post(pages::retry))
            .route("/ui/audit", get(pages::audit))
            .route("/assets/{name}", get(pages::asset))
            .route("/health/live", get(health::live))
            .route("/health/ready", get(health::ready))
            .route("/services", get(api::services))
            .route("/services/{id}", get(api::service))
            .route("/services/{id}/runs", get(api::runs))
            .route("/services/{id}/explain", get(api::explain))
            .route("/services/{id}/overrides", get(api::overrides))
            .route("/services/{id}/overrides/{key}", put(commands::put_override).delete(commands::delete_override))
            .route("/services/{id}/{action}", post(commands::command))
            .route("/work", get(work::tables))
            .route("/work/{table}/failed", get(work::failed))
            .route("/work/{table}/retry", post(work::retry))
            .route("/audit", get(api::audit))
            .route("/events", get(events::events))
            .route("/metrics", get(metrics::metrics))
            .route("/openapi.json", get(openapi::document))
            .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is no such page"))
            .method_not_allowed_fallback(async || {
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this page has no such method")
            })
            .layer(middleware::from_fn_with_state(self.clone(), access::guard))
            .with_state(self)
    }

    /// Returns a service.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn service(&self, id: &str) -> ApiResult<ServiceHandle> {
        self.registry.get(id).ok_or_else(|| ApiError::no_service(id))
    }

    /// Awaits `work` on the runtime of the services: connections to a database belong to it. If the request is dropped, the work
    /// continues.
    ///
    /// # Errors
    /// That runtime has ended.
    pub(crate) async fn on_home<T, F>(&self, work: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let runtime = self.registry.inner.home.handle().map_err(|error| ApiError::unavailable(&error))?;
        runtime.spawn(work).await.map_err(|error| ApiError::unavailable(&Error::new(error)))
    }

    pub(crate) fn store(&self) -> Option<Arc<dyn OperatorStore>> {
        self.registry.inner.extension.operator_store()
    }

    /// Records that an operator has changed something. Called on the runtime of the services.
    pub(crate) async fn record(&self, subject: &str, action: &str, detail: String, by: &str, why: &str) {
        let now = self.registry.inner.services.shared.clock.wall_now();
        let entry = AuditEntry::new(now, subject, action, detail, by, why);
        info!(service.id = %subject, "{action} by {by}: {why} {}", entry.detail);
        {
            let mut audit = self.core.audit();
            if audit.len() == AUDIT_IN_MEMORY {
                audit.pop_front();
            }
            audit.push_back(entry.clone());
        }
        let Some(store) = self.store() else { return };
        let recorded = match tokio::time::timeout(AUDIT_TIMEOUT, store.record(&entry)).await {
            Ok(recorded) => recorded,
            Err(_) => Err(Error::msg("no answer in time")),
        };
        if let Err(error) = recorded {
            warn!("an entry of the audit is lost when this process ends, the database did not take it: {error:#}");
        }
    }

    /// Returns entries of the audit: of the database, or those in memory if there is none.
    pub(crate) async fn audit(self: &Arc<Self>, page: AuditPage) -> ApiResult<Vec<AuditEntry>> {
        if let Some(store) = self.store() {
            let read: Result<_> = self.on_home(async move { store.audit(&page).await }).await?;
            return read.map_err(|error| ApiError::unavailable(&error));
        }
        let audit = self.core.audit();
        let is_older = |entry: &&AuditEntry| page.before.as_ref().is_none_or(|before| entry.id < *before);
        let is_of = |entry: &&AuditEntry| page.subject.as_ref().is_none_or(|subject| entry.subject == *subject);
        let found = audit.iter().rev().filter(is_older).filter(is_of);
        Ok(found.take(usize::try_from(page.limit).unwrap_or(usize::MAX)).cloned().collect())
    }
}

/// The state of a handler.
pub(crate) type AppState = State<SharedApp>;
