//! [`CommitTracker`]: the commits in flight of one service.
//!
//! If a run is cancelled while it commits, it is unknown whether the commit took effect. So a timeout or a stop first
//! waits for the commit, for a limited time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::sync::Mutex;

/// For how long a commit in flight delays the cancellation of its run.
const PROTECTED: Duration = Duration::from_secs(5);

/// The commits in flight of one service.
#[derive(Debug, Default)]
pub struct CommitTracker {
    commits: Mutex<Commits>,
    finished: Notify,
}

#[derive(Debug, Default)]
struct Commits {
    next: u64,
    begun: BTreeMap<u64, Instant>,
}

impl CommitTracker {
    /// Counts one commit until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> CommitGuard {
        let mut commits = self.commits.lock();
        let id = commits.next;
        commits.next += 1;
        commits.begun.insert(id, Instant::now());
        CommitGuard { tracker: Arc::clone(self), id }
    }

    /// Whether a commit is in flight because of which a run must not be cancelled.
    pub fn in_progress(&self) -> bool {
        self.commits.lock().begun.values().any(|begun| begun.elapsed() < PROTECTED)
    }

    /// Waits until the commits that are in flight now have ended. Dropping the future changes nothing.
    pub async fn finished(&self) {
        let later = self.commits.lock().next;
        loop {
            let notified = self.finished.notified();
            tokio::pin!(notified);
            // Registered before the commits are read, or a guard dropped in between would be missed.
            notified.as_mut().enable();
            if self.commits.lock().begun.keys().all(|id| *id >= later) {
                return;
            }
            notified.await;
        }
    }
}

/// One commit that a [`CommitTracker`] counts.
#[derive(Debug)]
pub struct CommitGuard {
    tracker: Arc<CommitTracker>,
    id: u64,
}

impl Drop for CommitGuard {
    fn drop(&mut self) {
        self.tracker.commits.lock().begun.remove(&self.id);
        self.tracker.finished.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_in_progress_as_long_as_one_guard_lives() {
        let tracker = Arc::new(CommitTracker::default());
        tracker.finished().await;
        let (first, second) = (tracker.enter(), tracker.enter());
        drop(first);
        assert!(tracker.in_progress());
        let waiting = tokio::spawn({
            let tracker = Arc::clone(&tracker);
            async move { tracker.finished().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let later = tracker.enter();
        drop(second);
        waiting.await.unwrap();
        assert!(tracker.in_progress(), "it does not wait for commits that begin later");
        drop(later);
        assert!(!tracker.in_progress());
    }
}
