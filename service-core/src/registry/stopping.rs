//! Stopping: those that others depend on last; a shutdown within its time, which the tiers share.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use super::{Inner, ServiceRegistry};
use crate::runtime::control::StopBy;
use crate::schedule::later;
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;

/// As long as it lives, nothing new starts.
struct Shutting<'a>(&'a Inner);

impl<'a> Shutting<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.shutting.fetch_add(1, SeqCst);
        Self(inner)
    }
}

impl Drop for Shutting<'_> {
    fn drop(&mut self) {
        self.0.shutting.fetch_sub(1, SeqCst);
    }
}

impl ServiceRegistry {
    /// Stops every service, those that others depend on last, and waits until all have drained. They stay registered.
    ///
    /// Asked from within a service's run it returns at once.
    ///
    /// # Errors
    /// None so far.
    pub async fn stop_all(&self) -> Result<()> {
        self.detached_inside(|registry| async move { registry.stop_tiers(None).await }).await;
        Ok(())
    }

    /// Stops every service, cleans it up and forgets it. Asked from within a service's run it returns at once.
    ///
    /// # Errors
    /// None so far.
    pub async fn cleanup_all(&self) -> Result<()> {
        self.detached_inside(|registry| async move {
            registry.stop_tiers(None).await;
            for entry in registry.entries() {
                let handle = registry.handle(entry);
                registry.clone().forget(handle).await;
            }
        })
        .await;
        Ok(())
    }

    /// Stops everything within `shutdown_timeout` (default 25 s), those that others depend on last. Runs in flight have
    /// four fifths of their tier's share of the time, `cleanup` the rest.
    ///
    /// Asked from within a service's run it returns at once. Dropping the future takes the stop of no service back.
    ///
    /// # Errors
    /// Names each service that has failed, now or earlier, or did not stop in time.
    pub async fn shutdown(&self) -> Result<()> {
        self.inner.closing.store(true, SeqCst);
        self.inner.closed.notify_waiters();
        if self.is_inside() {
            let registry = self.clone();
            tokio::spawn(async move { registry.stop_tiers(Some(registry.inner.shutdown_timeout)).await });
            return Ok(());
        }
        self.waiting(self.stop_tiers(Some(self.inner.shutdown_timeout))).await;
        self.verdict()
    }

    /// Waits for SIGINT (Ctrl-C) or SIGTERM, a critical service's failure, or a [`shutdown`](Self::shutdown) asked for
    /// elsewhere; then shuts down. A second signal ends the process at once, with exit status 128 + its number.
    ///
    /// Signals are heard from [`start_all`](Self::start_all) on, also while that still waits; after a
    /// [`build`](crate::RegistryBuilder::build) from the first poll on, so that one before that ends the process undrained.
    /// Where blocking code of a service never returns, nor would the program, since its runtime waits for that code:
    /// three seconds after the shutdown the process is ended.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown); and signals cannot be listened to.
    pub async fn until_shutdown(self) -> Result<()> {
        crate::registry::signals::until_shutdown(&self).await
    }

    /// Waits until a shutdown is asked for.
    pub(crate) async fn closing(&self) {
        let closed = self.inner.closed.notified();
        if !self.inner.closing.load(SeqCst) {
            closed.await;
        }
    }

    /// A service that the program cannot do without has failed for good.
    pub(crate) fn critical_failure(&self, id: &str) {
        error!(service.id = %id, "a critical service has failed: everything shuts down");
        let registry = self.clone();
        tokio::spawn(async move {
            if let Err(error) = registry.shutdown().await {
                error!("shut down: {error:#}");
            }
        });
    }

    async fn stop_tiers(&self, within: Option<Duration>) {
        let _shutting = within.map(|_| Shutting::new(&self.inner));
        let deadline = within.map(|within| later(Instant::now(), within));
        let tiers = self.tiers();
        let count = tiers.len();
        for (n, tier) in tiers.into_iter().rev().enumerate() {
            let now = Instant::now();
            // What is left is shared by the tiers that are left.
            let left = u32::try_from(count - n).unwrap_or(u32::MAX);
            let share = deadline.map(|deadline| deadline.saturating_duration_since(now) / left);
            let by = StopBy {
                run: share.map(|share| later(now, share.mul_f64(0.8))),
                cleanup: share.map(|share| later(now, share.mul_f64(0.95))),
                by_itself: false,
            };
            for entry in &tier {
                entry.ask_stop(by);
            }
            for entry in tier {
                let handle = self.handle(entry);
                match share {
                    None => handle.stop_by(by).await,
                    Some(share) => {
                        if tokio::time::timeout_at(later(now, share), handle.stop_by(by)).await.is_err() {
                            error!(service.id = %handle.id(), "does not stop");
                        }
                    }
                }
            }
        }
    }

    /// An error that names what has failed or still runs.
    fn verdict(&self) -> Result<()> {
        let mut failed = Vec::new();
        for entry in self.entries() {
            let control = entry.lock();
            match control.state() {
                ServiceState::Failed => {
                    let why = control.last_error().map_or_else(String::new, |error| format!(": {error:#}"));
                    failed.push(format!("service `{}` failed{why}", entry.id));
                }
                state if state.is_running() => failed.push(format!("service `{}` did not stop in time", entry.id)),
                _ => {}
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Error::msg(failed.join("; "))) }
    }
}
