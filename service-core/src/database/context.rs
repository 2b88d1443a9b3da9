//! The methods of [`Context`] for the database.

use sea_orm::DatabaseConnection;

use crate::database::service_db::ServiceDb;
use crate::database::store::Store;
use crate::database::transaction::Transaction;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::work_item::WorkItem;
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};

impl Context {
    /// Returns the registry's database.
    ///
    /// # Errors
    /// The registry has none; the error is fatal and says what to add.
    pub fn db(&self) -> Result<&DatabaseConnection> {
        Ok(self.service_db()?.db())
    }

    /// Begins a transaction. On SQLite it begins `IMMEDIATE`, so it waits for other writers, up to a minute. `commit()`
    /// makes its writes permanent, and dropping it rolls it back. A timeout or a stop waits for a commit in progress, up to
    /// 5 s.
    ///
    /// # Errors
    /// The registry has no database, or the database is down.
    pub async fn begin(&self) -> Result<Transaction> {
        self.service_db()?.begin().await
    }

    /// Claims up to `n` pending rows of `E` that are due; no other worker gets them. Half of them are rows without a time,
    /// half are rows whose time has come. [`Batch::commit`](crate::database::Batch::commit) commits all of them together. If
    /// the run ends without it, the rows stay as they were, except that the row in flight loses an attempt.
    ///
    /// # Errors
    /// When awaited: the registry has no database, or the database is down.
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(self.service_db(), n).in_run(self)
    }

    /// Claims rows as [`claim`](Self::claim) does, for work that is slow or has effects outside the database: each row
    /// commits by itself, and no transaction is open while your code runs.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(self.service_db(), n).in_run(self)
    }

    /// Returns the store of this service: small typed values that are kept across restarts.
    ///
    /// # Errors
    /// When used: the registry has no database, or the database is down.
    pub fn store(&self) -> Store {
        Store::new(self.service_db())
    }

    /// The registry's database, as this service uses it.
    fn service_db(&self) -> Result<&ServiceDb> {
        let db = ServiceDb::of(&self.service).ok_or_else(|| {
            Error::fatal(format!(
                "service `{}` needs a database, but the registry has none; \
                 add `.database(db)` or `.database_url(\"…\")` to the builder",
                self.service_id()
            ))
        })?;
        db.mark_used();
        if let Some(monitor) = &db.tx.monitor {
            monitor.check()?;
        }
        Ok(db)
    }
}
