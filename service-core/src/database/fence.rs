//! [`Fence`]: refuses the commits of a replica that has lost the lease of its service.
//!
//! A process that was suspended, or whose network was slow, may believe that it still runs the service. So each
//! transaction of such a service checks the number of the last takeover as its last statement before the commit. On
//! PostgreSQL the check locks that row, so a takeover waits for the commit; on SQLite there is only one writer anyway.
//!
//! A transaction that does nothing for as long as a lease lasts is ended by PostgreSQL: a takeover does not wait longer
//! for it.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::database::error_kind::DbResult;
use crate::runtime::lease::Lease;

/// The check of the transactions of one service, for one takeover.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    service_id: Arc<str>,
    epoch: u64,
    lease: Arc<Lease>,
}

/// The error of a write under a lease that was lost. Nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the lease of service `{service_id}` was lost (epoch {epoch}), so nothing is written: another replica may run the service"
)]
pub(crate) struct LeaseLost {
    service_id: Arc<str>,
    epoch: u64,
}

/// Why a transaction does not commit.
#[derive(Debug)]
pub(crate) enum Refusal {
    LeaseLost(LeaseLost),
    Database(DbErr),
}

impl From<DbErr> for Refusal {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

impl Fence {
    pub(crate) fn new(service_id: Arc<str>, epoch: u64, lease: Arc<Lease>) -> Self {
        Self { service_id, epoch, lease }
    }

    fn lost(&self) -> LeaseLost {
        LeaseLost { service_id: self.service_id.clone(), epoch: self.epoch }
    }

    /// # Errors
    /// This replica does not trust its lease any more.
    pub(crate) fn check_here(&self) -> Result<(), LeaseLost> {
        if self.lease.epoch() == Some(self.epoch) { Ok(()) } else { Err(self.lost()) }
    }

    /// The first statement of a transaction: limits how long it may do nothing.
    pub(crate) async fn begin(&self, tx: &impl ConnectionTrait) -> DbResult<()> {
        if tx.get_database_backend() == DbBackend::Postgres {
            let limit = self.lease.length.as_millis().min(i32::MAX as u128);
            // A SELECT would be a query, after which the isolation level of the transaction can no longer be changed.
            tx.execute_unprepared(&format!("SET LOCAL idle_in_transaction_session_timeout = {limit}")).await?;
        }
        Ok(())
    }

    /// The last statement of a transaction.
    ///
    /// # Errors
    /// Another takeover has followed; or the database's.
    pub(crate) async fn check(&self, tx: &impl ConnectionTrait) -> Result<(), Refusal> {
        let backend = tx.get_database_backend();
        let sql = match backend {
            DbBackend::Postgres => "SELECT epoch FROM service_epoch WHERE service_id = $1 FOR SHARE",
            _ => "SELECT epoch FROM service_epoch WHERE service_id = ?",
        };
        let select = Statement::from_sql_and_values(backend, sql, [(&*self.service_id).into()]);
        let epoch: Option<i64> = match tx.query_one_raw(select).await? {
            Some(row) => Some(row.try_get("", "epoch")?),
            None => None,
        };
        if epoch.and_then(|epoch| u64::try_from(epoch).ok()) == Some(self.epoch) {
            return Ok(());
        }
        // The run under this lease ends, and does not count as a failure.
        self.lease.lose(self.epoch);
        Err(Refusal::LeaseLost(self.lost()))
    }
}
