//! [`WriteLock`]: the order of the writers to SQLite.
//!
//! SQLite has one writer at a time. Whoever finds it busy sleeps and asks again, so that the luckiest is next and the lock
//! lies idle between. The services of one process stand in line here instead; between processes SQLite's own way holds.
//!
//! The tricky part: who holds the turn may be the one who waits, with two transactions at once. So nobody waits here for
//! ever, and the turn is only an order: the lock itself stays SQLite's.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::database::connect::BUSY_TIMEOUT;

/// The line of one database's writers.
#[derive(Clone, Debug)]
pub(crate) struct WriteLock(Arc<Semaphore>);

/// A place at its head, until it is dropped. Nothing where it was not to be had in time.
pub(crate) type WritePermit = Option<OwnedSemaphorePermit>;

impl WriteLock {
    /// Waits for its turn, for as long as SQLite would.
    pub(crate) async fn acquire(&self) -> WritePermit {
        let write_lock = Arc::clone(&self.0);
        if let Ok(turn) = write_lock.clone().try_acquire_owned() {
            return Some(turn);
        }
        tokio::time::timeout(BUSY_TIMEOUT, write_lock.acquire_owned()).await.ok()?.ok()
    }
}

impl Default for WriteLock {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}
