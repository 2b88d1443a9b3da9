//! [`CommitGate`]: stands open while a transaction of a run commits.
//!
//! A run that is cut while it commits may have committed or not, and nobody could say which. So whoever cuts runs
//! (timeout, drain) first waits until the gate is closed; a commit is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the commits in flight of one service.
#[derive(Debug, Default)]
pub struct CommitGate {
    open: AtomicUsize,
    closed: Notify,
}

impl CommitGate {
    /// Opens the gate until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> CommitGuard {
        self.open.fetch_add(1, Ordering::SeqCst);
        CommitGuard(Arc::clone(self))
    }

    /// Whether a commit is in flight.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// Waits until no commit is in flight. Dropping the future changes nothing.
    pub async fn closed(&self) {
        loop {
            let notified = self.closed.notified();
            tokio::pin!(notified);
            // Registered before the count is read, or a guard dropped in between would be missed.
            notified.as_mut().enable();
            if !self.is_open() {
                return;
            }
            notified.await;
        }
    }
}

/// Holds a [`CommitGate`] open.
#[derive(Debug)]
pub struct CommitGuard(Arc<CommitGate>);

impl Drop for CommitGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_open_as_long_as_one_guard_lives() {
        let gate = Arc::new(CommitGate::default());
        gate.closed().await;
        let (first, second) = (gate.enter(), gate.enter());
        drop(first);
        assert!(gate.is_open());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.closed().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(!gate.is_open());
    }
}
