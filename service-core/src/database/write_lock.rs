//! [`WriteLock`]: the queue of the writers to SQLite.
//!
//! SQLite has one writer at a time. A writer that finds it busy sleeps and tries again, so the order is random, and the
//! lock is idle in between. Therefore the services of one process queue here; other processes use SQLite's own way.
//!
//! The tricky part: a service with two transactions at once could wait for itself. So the wait is limited. The queue
//! only gives an order; SQLite's own lock still protects the data.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queue of one database's writers.
#[derive(Clone, Debug)]
pub(crate) struct WriteLock(Arc<Semaphore>);

/// The turn of one writer, until it is dropped. `None`: it did not come in time.
pub(crate) type WritePermit = Option<OwnedSemaphorePermit>;

impl WriteLock {
    /// Waits for its turn, up to `limit`.
    pub(crate) async fn acquire(&self, limit: Duration) -> WritePermit {
        let write_lock = Arc::clone(&self.0);
        if let Ok(turn) = write_lock.clone().try_acquire_owned() {
            return Some(turn);
        }
        tokio::time::timeout(limit, write_lock.acquire_owned()).await.ok()?.ok()
    }
}

impl Default for WriteLock {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}
