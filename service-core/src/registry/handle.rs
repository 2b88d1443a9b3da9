//! [`ServiceHandle`]: one service, as an operator or the application holds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::observe::explain::{self, Explanation};
use crate::observe::health::{self, ServiceHealth};
use crate::registry::ServiceRegistry;
use crate::runtime::control::{Control, StopBy};
use crate::runtime::entry::{Entry, used_up};
use crate::service::error::{Error, Result};
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// How long `start` waits for a slow `configure`.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(30);

/// One service of a registry. Cheap to clone; dropping it stops nothing.
///
/// A call that the service's state does not allow returns an error that says why, and changes nothing.
#[derive(Clone)]
pub struct ServiceHandle {
    pub(crate) entry: Arc<Entry>,
    pub(crate) registry: ServiceRegistry,
}

impl ServiceHandle {
    /// The service's id.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Where it is in its life.
    pub fn state(&self) -> ServiceState {
        self.entry.lock().state()
    }

    /// How it is.
    pub fn health(&self) -> ServiceHealth {
        health::of(&self.entry)
    }

    /// What it is set to and by whom, when it will run, and why it does not run now.
    pub fn explain(&self) -> Explanation {
        explain::of(&self.entry, &self.registry)
    }

    /// Starts it with a new instance, and waits until that is built or could not be built, at most 30 s: a slower one
    /// goes on starting.
    ///
    /// # Errors
    /// It runs already, has failed (then `reset` starts it), was handed over as a ready-made instance that has ended, or
    /// failed for good at once. A failure that is retried is no error.
    pub async fn start(&self) -> Result<()> {
        #[cfg(feature = "database")]
        crate::database::poll_if_up(&self.registry).await;
        let life = {
            let control = self.entry.lock();
            match control.state() {
                ServiceState::Created | ServiceState::Stopped => {}
                ServiceState::Failed => return control.refuse(self.id(), "start", control.why_down()),
                ServiceState::Draining => return control.refuse(self.id(), "start", "it is still stopping"),
                _ => return control.refuse(self.id(), "start", "it is running already"),
            }
            self.may_begin(&control, "start")?;
            self.registry.launch(&self.entry, control)?
        };
        self.registry.waiting(self.started(life, Instant::now() + START_PATIENCE)).await
    }

    /// Whether another life, or another instance, can be had at all.
    fn may_begin(&self, control: &Control, action: &'static str) -> Result<()> {
        if control.forgotten {
            return control.refuse(self.id(), action, "it has been unregistered");
        }
        if self.entry.factory.has_next() { Ok(()) } else { Err(used_up(self.id())) }
    }

    /// Waits for the end of a start.
    pub(crate) async fn started(&self, life: u32, patience: Instant) -> Result<()> {
        if self.entry.is_current() {
            return Ok(());
        }
        let settled = self.entry.until(|control| {
            (control.settled || control.life != life).then(|| {
                let failed = control.state() == ServiceState::Failed && control.life == life;
                failed.then(|| control.last_error().cloned()).flatten()
            })
        });
        match tokio::time::timeout_at(patience, settled).await {
            Ok(Some(error)) => Err(error),
            Ok(None) => Ok(()),
            Err(_) => {
                tracing::warn!(
                    service.id = %self.entry.id,
                    "still starting after {} s; it goes on in the background",
                    START_PATIENCE.as_secs()
                );
                Ok(())
            }
        }
    }

    /// Stops it and waits until the run in flight has drained and `cleanup` has run. Of a service that does not run it
    /// succeeds at once. Dropping the future takes nothing back.
    ///
    /// Asked from within the service's own run it returns at once, and that run is the last.
    ///
    /// # Errors
    /// None so far.
    pub async fn stop(&self) -> Result<()> {
        self.registry.waiting(self.stop_by(StopBy { by_itself: self.entry.is_current(), ..StopBy::default() })).await;
        Ok(())
    }

    pub(crate) async fn stop_by(&self, by: StopBy) {
        let life = self.entry.ask_stop(by);
        if !self.entry.is_current() {
            self.entry.until(|control| (control.life != life || !control.state().is_running()).then_some(())).await;
        }
    }

    /// Pauses it: the run in flight goes on to its end, and no scheduled run follows. The instance is kept.
    ///
    /// # Errors
    /// It does not run, or is paused already.
    pub async fn pause(&self) -> Result<()> {
        self.entry.ask_pause(self.entry.is_current())
    }

    /// Resumes it: runs at once if a run has come due meanwhile.
    ///
    /// # Errors
    /// It is not paused.
    pub async fn resume(&self) -> Result<()> {
        self.entry.ask_resume()
    }

    /// Starts a failed service with a fresh instance and no failures counted.
    ///
    /// Asked from within the service's own run it returns at once, and a fresh instance follows that run, unless it
    /// ends by a stop or by `Recovery::Stop`.
    ///
    /// # Errors
    /// It has not failed, is ending, was handed over as a ready-made instance, or failed for good again at once.
    pub async fn reset(&self) -> Result<()> {
        let life = {
            let mut control = self.entry.lock();
            let from_within = self.entry.is_current();
            if !from_within && control.state() != ServiceState::Failed {
                let why = format!("it has not failed, it is {}", control.state());
                return control.refuse(self.id(), "reset", why);
            }
            if from_within && (control.ending || control.state() == ServiceState::Draining) {
                return control.refuse(self.id(), "reset", control.why_down());
            }
            self.may_begin(&control, "reset")?;
            if from_within {
                control.renew = true;
                return Ok(());
            }
            self.registry.launch(&self.entry, control)?
        };
        self.registry.waiting(self.started(life, Instant::now() + START_PATIENCE)).await
    }

    /// Has it run as soon as no run is in flight, and waits for that run. A paused service runs once and stays paused.
    /// The schedule's grid does not move. Dropping the future does not take the run back.
    ///
    /// Asked from within the service's own run it returns an empty report at once, and the next run follows this one.
    ///
    /// # Errors
    /// The service does not run, is still starting, or ended before the run. A run that failed is no error here; the
    /// report says so.
    pub async fn run_now(&self) -> Result<RunReport> {
        let (sender, report) = oneshot::channel();
        {
            let mut control = self.entry.lock();
            control.ask_run(self.id())?;
            if self.entry.is_current() {
                return Ok(RunReport::default());
            }
            control.add_waiter(sender);
        }
        self.registry
            .waiting(report)
            .await
            .map_err(|_| Error::msg(format!("service `{}` ended before it ran", self.id())))
    }

    /// Waits until it is, or since this call was, in `state`.
    ///
    /// # Errors
    /// It has failed, or is unregistered, and so will not come there by itself.
    pub async fn wait_for(&self, state: ServiceState) -> Result<()> {
        let before = self.entry.lock().times_entered(state);
        let id = self.id().to_owned();
        let reached = self.entry.until(|control| {
            if control.state() == state || control.times_entered(state) != before {
                return Some(Ok(()));
            }
            if control.forgotten {
                return Some(control.refuse(&id, "wait for", "it has been unregistered"));
            }
            if control.state() == ServiceState::Failed {
                let why = format!("it has failed and will not become {state}");
                return Some(control.refuse(&id, "wait for", why));
            }
            None
        });
        self.registry.waiting(reached).await
    }
}

impl fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}
