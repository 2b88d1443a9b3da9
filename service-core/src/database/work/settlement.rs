//! Writes what is still to be written about ended runs: charges the row in flight, and releases claims.

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::work::lease;
use crate::database::work::sql::key_text;
use crate::database::work::work_state::Settlement;
use crate::service::error::Result;

impl ServiceDb {
    /// Writes what the ended run left to be written: the row in flight is charged with `error`, and claims are released. Makes
    /// no query if there is nothing to write. A row that is still locked by its ended run is left for later.
    ///
    /// # Errors
    /// The database is down. The settlements are kept for the next call.
    pub async fn settle(&self, error: Option<&str>) -> Result<()> {
        for settlement in self.work.pending(error) {
            let is_written = match settlement.apply(self).await {
                Ok(is_written) => is_written,
                Err(error) if ErrorKind::of(&error).is_outage() => return Err(error.into()),
                Err(error) => {
                    // Kept, it would fail again before every claim and block the table.
                    tracing::warn!(service.id = &*self.service_id, table = settlement.sql.name, %error, "a failed row could not be charged");
                    true
                }
            };
            if is_written {
                self.work.remove(&settlement);
            }
        }
        Ok(())
    }
}

impl Settlement {
    /// False if it has to wait, because the row is still locked.
    async fn apply(&self, service_db: &ServiceDb) -> std::result::Result<bool, DbErr> {
        match self.try_apply(service_db).await {
            Err(error) if ErrorKind::of(&error) == ErrorKind::Contention => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    async fn try_apply(&self, service_db: &ServiceDb) -> std::result::Result<(), DbErr> {
        let message = self.error.as_deref().unwrap_or("not settled");
        match self.write(service_db, Some(message)).await {
            // The message may be what the column refuses.
            Err(error) if ErrorKind::of(&error) == ErrorKind::Statement => self.write(service_db, None).await,
            other => other,
        }
    }

    async fn write(&self, service_db: &ServiceDb, message: Option<&str>) -> std::result::Result<(), DbErr> {
        let backend = self.sql.backend;
        let tx = begin_with_lock_timeout(service_db, backend).await?;
        if let Some(row) = &self.row {
            let now = service_db.clock.now();
            let decision = self.sql.retry_decision(row.attempts, None, now);
            let charge = self.sql.fail(&row.key, row.attempts, decision, message, now);
            match &self.owner {
                None => {
                    tx.execute(&charge).await?;
                }
                Some(owner) => {
                    // If the claim has expired, another worker may have the row.
                    let savepoint = tx.begin().await?;
                    savepoint.execute(&charge).await?;
                    let release = lease::release(&self.sql.name, &key_text(&row.key), owner);
                    let ours = savepoint.execute(&release).await?.rows_affected() == 1;
                    if ours { savepoint.commit().await? } else { savepoint.rollback().await? }
                }
            }
        }
        if let Some(owner) = &self.owner {
            lease::release_all(&tx, &self.sql.name, owner, service_db.clock.now()).await?;
        }
        tx.commit().await
    }
}

/// Begins a transaction with a short lock timeout: a statement of the ended run may still hold the row's lock.
async fn begin_with_lock_timeout(
    service_db: &ServiceDb,
    backend: DbBackend,
) -> std::result::Result<DatabaseTransaction, DbErr> {
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let tx = service_db.tx.db.begin_with_options(options).await?;
    if backend == DbBackend::Postgres {
        tx.execute_unprepared("SET LOCAL lock_timeout = '2s'").await?;
    }
    Ok(tx)
}
