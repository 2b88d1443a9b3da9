//! [`Access`]: one service's way to the database.

use std::sync::Arc;

use sea_orm::DatabaseConnection;

use super::clock::Clock;
use super::gate::CommitGate;
use super::transaction::Transaction;
use crate::error::Result;

/// What one service needs to work with a database. Cheap to clone.
///
/// Inside a service, [`Context`](crate::Context) has the same methods. Outside, in a command-line tool or a test, make one
/// with [`Access::new`].
#[derive(Clone, Debug)]
pub struct Access {
    pub(crate) db: DatabaseConnection,
    pub(crate) service_id: Arc<str>,
    pub(crate) gate: Arc<CommitGate>,
    pub(crate) clock: Clock,
}

impl Access {
    /// Access for `service_id`, on the system's clock.
    pub fn new(db: DatabaseConnection, service_id: impl Into<Arc<str>>) -> Self {
        Self { db, service_id: service_id.into(), gate: Arc::default(), clock: Clock::default() }
    }

    /// On another clock.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The pool.
    pub fn db(&self) -> &DatabaseConnection {
        &self.db
    }

    /// Whose access it is.
    pub fn service_id(&self) -> &str {
        &self.service_id
    }

    /// Open while a transaction commits.
    pub fn gate(&self) -> &Arc<CommitGate> {
        &self.gate
    }

    /// Begins a transaction: `IMMEDIATE` on SQLite, where another writer is waited for.
    ///
    /// # Errors
    /// The database is away, or the write lock was not to be had within a minute.
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self.db.clone(), Arc::clone(&self.gate)).await
    }
}
