//! [`DatabaseResource`]: the database as what services need, whose outages they wait for.

use std::sync::{Arc, OnceLock, Weak};

use tokio::time::Instant;

use crate::database::config::watcher::TableWatcher;
use crate::database::driver::forget_statements;
use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::resource::{Outage, Resource};
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::service::error::Error;
use crate::service::failure::FailureKind;

/// The database as a resource of the services.
#[derive(Debug)]
pub(super) struct DatabaseResource {
    pub(super) name: Arc<str>,
    pub(super) watcher: Arc<TableWatcher>,
    pub(super) services: OnceLock<Weak<Services>>,
}

impl Resource for DatabaseResource {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn is_used_by(&self, service: &ServiceInner) -> bool {
        ServiceDb::of(service).is_some_and(ServiceDb::is_used)
    }

    fn suspects(&self, service: &ServiceInner, kind: FailureKind, error: &Error) -> bool {
        let availability = &self.watcher.availability;
        // A run that hangs may be waiting for the database, if the service has used it.
        let hangs = kind == FailureKind::Timeout && self.is_used_by(service);
        let kind = ErrorKind::of_user_in_chain(error);
        match kind {
            // A conflict or a changed table: neither the service nor the database is at fault.
            Some(ErrorKind::Contention) => availability.disturbed(),
            Some(ErrorKind::StaleStatement) => {
                availability.disturbed();
                let pool = self.watcher.pool.db.clone();
                tokio::spawn(async move { forget_statements(&pool).await });
            }
            Some(ErrorKind::Unavailable) => availability.suspect_writes(),
            _ => {}
        }
        if hangs || kind.is_some_and(ErrorKind::is_outage) {
            availability.probe_soon();
        }
        hangs || kind.is_some_and(ErrorKind::is_passing)
    }

    fn is_suspected(&self) {
        self.watcher.availability.probe_soon();
    }

    fn confirm(&self, began: Instant) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            if let Some(services) = self.services.get().and_then(Weak::upgrade) {
                self.watcher.poll_if_up(&services).await;
            }
            self.was_down_since(began)
        })
    }

    fn was_down_since(&self, at: Instant) -> bool {
        self.watcher.availability.was_down_since(at)
    }

    fn recovered_since(&self, at: Instant) -> bool {
        self.watcher.availability.recovered_since(at)
    }

    fn outage(&self) -> Option<Outage> {
        self.watcher.availability.outage()
    }
}
