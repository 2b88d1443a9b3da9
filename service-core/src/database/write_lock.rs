//! [`WriteLock`]: the order of the writers to SQLite.
//!
//! SQLite has one writer at a time. A writer that finds it busy sleeps and tries again, so the lock is unused in between. The
//! services of one process wait in a queue here instead; between processes SQLite's own way applies.
//!
//! The tricky part is a task with two transactions at once, which waits for itself. So the wait has a limit, and the permit only
//! decides the order: the lock itself is SQLite's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The line of one database's writers.
#[derive(Clone, Debug)]
pub(crate) struct WriteLock(Arc<Semaphore>);

/// A place at its head, until it is dropped. Nothing where it was not to be had in time.
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
