//! [`DatabaseOperatorStore`]: keeps the changes of operators in the registry's database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sea_orm::{DatabaseConnection, DbBackend};
use serde_json::Value;

use crate::database::audit;
use crate::database::config::tables::{self, Override};
use crate::database::config::watcher::TableWatcher;
use crate::database::limited;
use crate::database::work::linked::linked_tables;
use crate::log::debug;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::operator_store::{
    AuditEntry, AuditPage, NotApplied, OperatorStore, StoredOverride, StoredPauses, WorkTable,
};
use crate::runtime::registration::RegisteredService;
use crate::runtime::services::Services;
use crate::service::error::{Error, Result};

/// Keeps overrides and the audit in the framework's tables.
#[derive(Debug)]
pub(crate) struct DatabaseOperatorStore {
    watcher: Arc<TableWatcher>,
    /// The tables remember how long their counts take.
    work_tables: Vec<Arc<dyn WorkTable>>,
}

impl DatabaseOperatorStore {
    pub(crate) fn new(watcher: Arc<TableWatcher>) -> Self {
        Self { work_tables: linked_tables(&watcher), watcher }
    }

    /// Applies what was written.
    ///
    /// # Errors
    /// The overrides cannot be read now. The next poll that reads them applies it.
    async fn apply(&self, services: &Services) -> Result<()> {
        match self.watcher.poll(services).await {
            Some(error) => Err(Error::new(NotApplied(error.into()))),
            None => Ok(()),
        }
    }

    async fn remove_old_entries(&self, db: &DatabaseConnection, now: SystemTime) -> Result<()> {
        let tx = self.watcher.pool.begin(db).await?;
        audit::remove_old(&tx, now).await?;
        Ok(limited::commit(tx).await?)
    }
}

impl OperatorStore for DatabaseOperatorStore {
    fn has_replicas(&self) -> bool {
        self.watcher.pool.db.get_database_backend() == DbBackend::Postgres
    }

    fn check_override(
        &self,
        services: &Services,
        service: &RegisteredService,
        key: &str,
        value: &Value,
    ) -> std::result::Result<(), String> {
        self.watcher.rows.check_override(services, service, key, value)
    }

    fn set_override<'a>(&'a self, services: &'a Services, new: StoredOverride) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let StoredOverride { service_id, key, value, by, why, at, until } = new;
            let row = Override { service_id, key, value, by, why, at: at.into(), until: until.map(Into::into) };
            let (row, other) = (&row, other_spelling(services, &row.service_id, &row.key));
            self.watcher
                .pool
                .with_db(|db| async move {
                    self.watcher.availability.tables().ensure(&db).await?;
                    let tx = self.watcher.pool.begin(&db).await?;
                    tables::set_override(&tx, row).await?;
                    if let Some(other) = other {
                        tables::remove_keys(&tx, &row.service_id, &[other]).await?;
                    }
                    Ok(limited::commit(tx).await?)
                })
                .await?;
            self.apply(services).await
        })
    }

    fn remove_override<'a>(&'a self, services: &'a Services, id: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            // The first of two calls may have removed it without an answer in time.
            let was_there = &AtomicBool::new(false);
            let keys = &[key, other_spelling(services, id, key).unwrap_or(key)];
            let remove = self.watcher.pool.with_db(|db| async move {
                let tx = self.watcher.pool.begin(&db).await?;
                was_there.fetch_or(tables::has_override(&tx, id, keys).await?, Ordering::Relaxed);
                tables::remove_keys(&tx, id, keys).await?;
                Ok(limited::commit(tx).await?)
            });
            remove.await?;
            let was_there = was_there.load(Ordering::Relaxed);
            match self.apply(services).await {
                // Another one may have removed it just now.
                Err(_) if !was_there => Ok(false),
                applied => applied.map(|()| was_there),
            }
        })
    }

    fn now<'a>(&'a self, services: &'a Services) -> BoxFuture<'a, Result<SystemTime>> {
        Box::pin(self.watcher.pool.with_db(move |db| async move { Ok(self.watcher.now(services, &db).await?.into()) }))
    }

    fn overrides<'a>(&'a self, services: &'a Services, id: &'a str) -> BoxFuture<'a, Result<Vec<StoredOverride>>> {
        Box::pin(async move {
            let all = self.watcher.pool.with_db(|db| async move {
                let now = self.watcher.now(services, &db).await?;
                let tx = self.watcher.pool.begin(&db).await?;
                let overrides = tables::read_overrides(&tx, now).await?;
                limited::commit(tx).await?;
                Ok(overrides)
            });
            let all = all.await?;
            // A row that cannot be parsed is in `rejected` of the explanation.
            let of_service = all.into_iter().filter_map(|row| row.ok()).filter(|row| row.service_id == id);
            let stored = |row: Override| {
                let Override { service_id, key, value, by, why, at, until } = row;
                StoredOverride { service_id, key, value, by, why, at: at.into(), until: until.map(Into::into) }
            };
            Ok(of_service.map(stored).collect())
        })
    }

    fn pauses<'a>(
        &'a self,
        services: &'a Services,
        service: &'a RegisteredService,
    ) -> BoxFuture<'a, Result<StoredPauses>> {
        Box::pin(async move {
            match self.watcher.poll(services).await {
                Some(error) => Err(error),
                None => Ok(self.watcher.rows.pauses(service)),
            }
        })
    }

    fn record<'a>(&'a self, services: &'a Services, entry: &'a AuditEntry) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.watcher.pool.with_db(move |db| async move {
            self.watcher.availability.tables().ensure(&db).await?;
            let now = self.watcher.now(services, &db).await?;
            let tx = self.watcher.pool.begin(&db).await?;
            audit::record(&tx, entry).await?;
            limited::commit(tx).await?;
            // The role may lack the right: an audit may be kept from being changed.
            if let Err(error) = self.remove_old_entries(&db, now.into()).await {
                debug!("old entries of the audit cannot be removed: {error:#}");
            }
            Ok(())
        }))
    }

    fn audit<'a>(&'a self, page: &'a AuditPage) -> BoxFuture<'a, Result<Vec<AuditEntry>>> {
        Box::pin(self.watcher.pool.with_db(move |db| async move {
            let tx = self.watcher.pool.begin(&db).await?;
            let entries = audit::read(&tx, page).await?;
            limited::commit(tx).await?;
            Ok(entries)
        }))
    }

    fn work_tables(&self) -> Vec<Arc<dyn WorkTable>> {
        self.work_tables.clone()
    }
}

/// Returns the other key that means the same as `key` for a service, or for the services of a type: a row that was
/// written by hand may have `pause` for `paused`. A service may have a setting with the name `pause`.
fn other_spelling(services: &Services, name: &str, key: &str) -> Option<&'static str> {
    let has_setting = |service: &Arc<RegisteredService>| {
        let is_of = **service.id() == *name || service.descriptor.id() == name;
        is_of && service.descriptor.setting_names().is_some_and(|names| names.contains(&"pause"))
    };
    (key == "paused" && !services.all().iter().any(has_setting)).then_some("pause")
}
