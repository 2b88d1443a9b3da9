//! [`CommitTracker`]: counts the commits in flight of one service.
//!
//! If a run is cancelled while it commits, it is unknown whether the commit took effect. So a timeout or a stop first waits
//! until no commit is in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the commits in flight of one service.
#[derive(Debug, Default)]
pub struct CommitTracker {
    in_flight: AtomicUsize,
    closed: Notify,
}

impl CommitTracker {
    /// Counts one commit until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> CommitGuard {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        CommitGuard(Arc::clone(self))
    }

    /// Whether a commit is in flight.
    pub fn in_progress(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > 0
    }

    /// Waits until no commit is in flight. Dropping the future changes nothing.
    pub async fn closed(&self) {
        loop {
            let notified = self.closed.notified();
            tokio::pin!(notified);
            // Registered before the count is read, or a guard dropped in between would be missed.
            notified.as_mut().enable();
            if !self.in_progress() {
                return;
            }
            notified.await;
        }
    }
}

/// One commit that a [`CommitTracker`] counts.
#[derive(Debug)]
pub struct CommitGuard(Arc<CommitTracker>);

impl Drop for CommitGuard {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_open_as_long_as_one_guard_lives() {
        let commits = Arc::new(CommitTracker::default());
        commits.closed().await;
        let (first, second) = (commits.enter(), commits.enter());
        drop(first);
        assert!(commits.in_progress());
        let waiting = tokio::spawn({
            let commits = Arc::clone(&commits);
            async move { commits.closed().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(!commits.in_progress());
    }
}
