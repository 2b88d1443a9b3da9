//! [`ServiceHandle`]: one service, as an operator or the application holds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::observe::explain::{self, Explanation};
use crate::observe::health::ServiceHealth;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::registration::{RegisteredService, used_up};
use crate::runtime::requests::{PausedBy, Rebuild, StopRequest};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::{Error, Result};
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// How long `start` waits for a slow `configure`.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// One service of a registry. Cheap to clone; dropping it stops nothing.
///
/// A call that the service's state does not allow returns an error that says why, and changes nothing.
#[derive(Clone)]
pub struct ServiceHandle {
    pub(crate) service: Arc<RegisteredService>,
    pub(crate) registry: ServiceRegistry,
}

impl ServiceHandle {
    /// The service's id.
    pub fn id(&self) -> &str {
        self.service.id()
    }

    /// The present state.
    pub fn state(&self) -> ServiceState {
        self.inner().lock().state()
    }

    /// Returns a health snapshot.
    pub fn health(&self) -> ServiceHealth {
        self.registry.health_of(&self.service)
    }

    /// Returns what the service is set to and by which layer, when it will run, and why it does not run now.
    pub fn explain(&self) -> Explanation {
        let inner = &self.registry.inner;
        explain::of(&self.service, &inner.services, &*inner.extension)
    }

    /// Starts it with a new instance, and waits until that is built or could not be built, at most 30 s: a slower one
    /// goes on starting. Dropping the future does not stop the service.
    ///
    /// # Errors
    /// It runs already, has failed (then `reset` starts it), was registered as a ready-made instance that has ended, or
    /// failed permanently at once. A failure that is retried is no error.
    pub async fn start(&self) -> Result<()> {
        let inner = &self.registry.inner;
        inner.extension.before_one(&inner.services).await;
        self.launch("start", |state| match state.state() {
            ServiceState::Created | ServiceState::Stopped => None,
            ServiceState::Failed => Some(state.why_down()),
            ServiceState::Draining => Some("it is still stopping"),
            _ => Some("it is running already"),
        })
        .await
    }

    /// Begins a new incarnation, unless there is a reason against it, and waits for the end of its start.
    async fn launch(
        &self,
        action: &'static str,
        why_not: impl FnOnce(&RuntimeState) -> Option<&'static str>,
    ) -> Result<()> {
        let session = self.registry.reopen();
        let runtime = self.registry.inner.home.handle()?;
        let supervisor = self.registry.begin(&session, &self.service, action, |state| {
            match why_not(state).or(state.requests.unregistered.then_some("it has been unregistered")) {
                Some(why) => state.refuse(self.id(), action, why),
                None if self.service.factory.has_next() => Ok(()),
                None => Err(used_up(self.id())),
            }
        })?;
        self.registry.keep_watching(&runtime);
        let incarnation = supervisor.incarnation();
        self.registry.spawn(&runtime, self.service.clone(), supervisor);
        self.registry.waiting(self.started(incarnation, Instant::now() + START_TIMEOUT)).await
    }

    /// Waits for the end of a start.
    pub(crate) async fn started(&self, incarnation: u32, deadline: Instant) -> Result<()> {
        if self.inner().is_current() {
            return Ok(());
        }
        let resolved = self.inner().until(|state| {
            let status = &state.status;
            let replaced = status.incarnation != incarnation;
            (status.start_resolved || replaced).then(|| {
                let failed = state.state() == ServiceState::Failed && !replaced;
                failed.then(|| status.last_error.clone()).flatten()
            })
        });
        match tokio::time::timeout_at(deadline, resolved).await {
            Ok(Some(error)) => Err(error),
            Ok(None) => Ok(()),
            Err(_) => {
                crate::log::warn!(
                    service.id = %self.id(),
                    "still starting after {} s; the start goes on in the background",
                    START_TIMEOUT.as_secs()
                );
                Ok(())
            }
        }
    }

    /// Stops it and waits until the run in flight has drained and `cleanup` has run. For a service that does not run it
    /// succeeds at once. Dropping the future does not take the stop back.
    ///
    /// Called from within the service's own run it returns at once, and that run is the last.
    ///
    /// # Errors
    /// None at present.
    pub async fn stop(&self) -> Result<()> {
        let by_itself = self.inner().is_current();
        self.registry.waiting(self.stop_by(StopRequest { by_itself, ..StopRequest::default() })).await;
        Ok(())
    }

    pub(crate) async fn stop_by(&self, stop: StopRequest) {
        let incarnation = self.inner().request_stop(stop);
        if !self.inner().is_current() {
            self.inner()
                .until(|state| {
                    let status = &state.status;
                    (status.incarnation != incarnation || !status.is_running()).then_some(())
                })
                .await;
        }
    }

    /// Pauses it: the run in flight goes on to its end, and no scheduled run follows. The instance is kept.
    ///
    /// # Errors
    /// It does not run, or is paused already.
    pub async fn pause(&self) -> Result<()> {
        self.inner().request_pause(if self.inner().is_current() { PausedBy::Itself } else { PausedBy::Handle })
    }

    /// Resumes it: runs at once if a run has come due meanwhile.
    ///
    /// # Errors
    /// It is not paused, or an operator override pauses it.
    pub async fn resume(&self) -> Result<()> {
        self.inner().request_resume()
    }

    /// Starts a failed service with a fresh instance and no failures counted, and waits as [`start`](Self::start) does.
    ///
    /// Called from within the service's own run it returns at once, and a fresh instance follows that run, unless it
    /// ends by a stop or by `Recovery::Stop`.
    ///
    /// # Errors
    /// It has not failed, is ending, was registered as a ready-made instance, or failed permanently again at once.
    pub async fn reset(&self) -> Result<()> {
        if self.inner().is_current() {
            let mut state = self.inner().lock();
            if !self.service.factory.has_next() {
                return Err(used_up(self.id()));
            }
            if state.requests.stop.is_some() || state.status.is_ending() {
                return state.refuse(self.id(), "reset", state.why_down());
            }
            state.request_rebuild(Rebuild::Reset);
            return Ok(());
        }
        {
            let state = self.inner().lock();
            if state.state() != ServiceState::Failed {
                return state.refuse(self.id(), "reset", format!("it has not failed, it is {}", state.state()));
            }
        }
        self.launch("reset", |state| (state.state() != ServiceState::Failed).then_some("it has not failed")).await
    }

    /// Runs it as soon as no run is in flight, and waits for that run. A paused service runs once and stays paused.
    /// The schedule's grid does not move. Dropping the future does not take the run back.
    ///
    /// Called from within the service's own run it returns an empty report at once, and the next run follows this one.
    ///
    /// # Errors
    /// The service does not run, is still starting, or ended before the run. A failure of the run itself is in the report.
    pub async fn run_now(&self) -> Result<RunReport> {
        if self.inner().is_current() {
            self.inner().request_run(None)?;
            return Ok(RunReport::default());
        }
        let (waiter, report) = oneshot::channel();
        self.inner().request_run(Some(waiter))?;
        self.registry
            .waiting(report)
            .await
            .map_err(|_| Error::msg(format!("service `{}` ended before it ran", self.id())))
    }

    /// Waits until it is in `state`, or was since this call.
    ///
    /// # Errors
    /// It has failed, or is unregistered, and so will not reach that state by itself.
    pub async fn wait_for(&self, state: ServiceState) -> Result<()> {
        let before = self.inner().lock().times_entered(state);
        let id = self.id().to_owned();
        let reached = self.inner().until(|now| {
            if now.state() == state || now.times_entered(state) != before {
                return Some(Ok(()));
            }
            if now.requests.unregistered {
                return Some(now.refuse(&id, "wait for", "it has been unregistered"));
            }
            if now.state() == ServiceState::Failed {
                let why = format!("it has failed and will not become {state}");
                return Some(now.refuse(&id, "wait for", why));
            }
            None
        });
        self.registry.waiting(reached).await
    }

    fn inner(&self) -> &ServiceInner {
        &self.service.inner
    }
}

impl ServiceRegistry {
    /// The service with this id.
    pub fn get(&self, id: &str) -> Option<ServiceHandle> {
        self.inner.services.get(id).map(|service| self.handle(service))
    }

    pub(crate) fn handle(&self, service: Arc<RegisteredService>) -> ServiceHandle {
        ServiceHandle { service, registry: self.clone() }
    }
}

impl fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}
