//! What a service's [`Context`] has of the database.

use sea_orm::DatabaseConnection;

use crate::database::service_db::ServiceDb;
use crate::database::store::Store;
use crate::database::transaction::Transaction;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::work_item::WorkItem;
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};

impl Context {
    /// The registry's database.
    ///
    /// # Errors
    /// The registry has none; the error is fatal and says what to write.
    pub fn db(&self) -> Result<&DatabaseConnection> {
        Ok(self.service_db()?.db())
    }

    /// Begins a transaction: `IMMEDIATE` on SQLite, where another writer is waited for. `commit()` makes it last,
    /// dropping it rolls it back. A timeout or stop that falls into the commit waits for its end.
    ///
    /// # Errors
    /// The registry has no database, or it is away.
    pub async fn begin(&self) -> Result<Transaction> {
        self.service_db()?.begin().await
    }

    /// Claims up to `n` pending rows of `E`, the oldest first; nobody else gets them. They end with
    /// [`Batch::commit`](crate::database::Batch::commit): a run that ends without it leaves them as they were, but charges the one
    /// in flight.
    ///
    /// # Errors
    /// When awaited: the registry has no database, or it is away.
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(self.service_db(), n)
    }

    /// As [`claim`](Self::claim), for work that is slow or has effects outside the database: no transaction is open while
    /// it goes on, and each row is settled by itself.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(self.service_db(), n)
    }

    /// Small typed values of this service that outlive the process.
    ///
    /// # Errors
    /// When used: the registry has no database, or it is away.
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
        Ok(db)
    }
}
