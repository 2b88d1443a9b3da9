//! [`ServiceHandle`]: reads and controls one service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::log::warn;
use crate::observe::explain::{self, Explanation};
use crate::observe::health::ServiceHealth;
use crate::registry::service_registry::{Phase, ServiceRegistry};
use crate::registry::session::Session;
use crate::runtime::factory::{READY_MADE_HAS_FAILED, ready_made_has_ended};
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::{PausedBy, Rebuild, StopRequest};
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::Result;
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// How long `start` waits for a slow `configure`.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads and controls one service of a registry. Cheap to clone. Dropping it stops nothing.
///
/// A call that the service's state does not allow returns an error that says why, and changes nothing.
///
/// ```
/// use service_core::prelude::*;
///
/// async fn operate(services: &ServiceRegistry) -> Result<()> {
///     let mailer = services.get("mailer").ok_or_else(|| Error::msg("there is no service `mailer`"))?;
///     println!("{} is {}", mailer.id(), mailer.health().status);
///     mailer.pause().await?;
///     mailer.resume().await?;
///     let report = mailer.run_now().await?;
///     if let Some(error) = report.error() {
///         eprintln!("the run failed: {error:#}");
///     }
///     mailer.stop().await
/// }
/// ```
#[derive(Clone)]
pub struct ServiceHandle {
    pub(crate) service: Arc<RegisteredService>,
    pub(crate) registry: ServiceRegistry,
}

impl ServiceHandle {
    /// Returns the id of the service.
    pub fn id(&self) -> &str {
        self.service.id()
    }

    /// Returns the state of the service.
    pub fn state(&self) -> ServiceState {
        self.inner().lock().state()
    }

    /// Returns a health snapshot.
    pub fn health(&self) -> ServiceHealth {
        self.registry.health_of(&self.service)
    }

    /// Returns the options of the service with the layer that set each, its next runs, and why it does not run now.
    pub fn explain(&self) -> Explanation {
        let inner = &self.registry.inner;
        explain::of(&self.service, &inner.services, &*inner.extension)
    }

    /// Starts the service with a new instance. Waits until the instance is built or could not be built, at most 30 s;
    /// after that the start continues in the background. After a shutdown, this reopens the registry, as
    /// [`ServiceRegistry::start`] does.
    ///
    /// Before the start, the configuration tables of a database are read, unless it is known to be down. Each read ends
    /// after 6 s, with `.database(pool)` after 15 s. If the future is dropped in this time, the service is not started.
    /// After that, dropping the future does not stop the service.
    ///
    /// # Errors
    /// The service runs already; it is `Failed` (`reset` starts it again); its ready-made instance has ended; it has
    /// been unregistered; there is no tokio runtime; it failed permanently during the start; the admin interface cannot
    /// be served; or a shutdown is in progress. A failure that is retried is not an error.
    pub async fn start(&self) -> Result<()> {
        let inner = &self.registry.inner;
        let session = self.registry.session_of_call();
        self.registry.waiting(inner.extension.before_one(&inner.services)).await;
        self.launch("start", session, |state| match state.state() {
            ServiceState::Created | ServiceState::Stopped => None,
            ServiceState::Failed if !self.service.factory.has_next() => Some(READY_MADE_HAS_FAILED),
            ServiceState::Failed => Some(state.why_down()),
            ServiceState::Draining => Some("it is still stopping"),
            _ if state.status.is_ending() => Some(state.why_down()),
            _ => Some("it is running already"),
        })
        .await
    }

    /// Begins a new incarnation unless `why_not` returns a reason, and waits for the result of its start.
    async fn launch(
        &self,
        action: &'static str,
        session: Option<Arc<Session>>,
        why_not: impl Fn(&RuntimeState) -> Option<&'static str>,
    ) -> Result<()> {
        let registry = &self.registry;
        let may_begin = |state: &RuntimeState| match why_not(state)
            .or(state.requests.unregistered.then_some("it has been unregistered"))
        {
            Some(why) => state.refuse(self.id(), action, why),
            None if self.service.factory.has_next() => Ok(()),
            None => Err(ready_made_has_ended(self.id())),
        };
        // A refused call changes nothing: it does not begin another session.
        may_begin(&self.inner().lock())?;
        let session = session.unwrap_or_else(|| registry.reopen());
        let runtime = registry.inner.home.handle()?;
        let begun = async {
            if session.is_open() {
                registry.start_companions().await?;
            }
            registry.begin(&session, &self.service, action, may_begin)
        };
        let supervisor = match registry.on_runtime(begun).await {
            Ok(supervisor) => supervisor,
            Err(error) => {
                // A later session may have companions.
                if !session.is_started() && Arc::ptr_eq(&registry.session(), &session) {
                    registry.stop_idle_companions().await;
                }
                return Err(error);
            }
        };
        registry.keep_watching(&runtime);
        registry.join_replicas();
        let incarnation = supervisor.incarnation();
        registry.spawn(&runtime, supervisor);
        let started = registry.waiting(self.started(incarnation, Instant::now() + START_TIMEOUT)).await;
        if started.is_ok() && session.mark_one_started() {
            registry.announce(Phase::Ready);
        }
        started
    }

    /// Waits for the result of a start.
    pub(crate) async fn started(&self, incarnation: u32, deadline: Instant) -> Result<()> {
        if self.inner().is_current() {
            return Ok(());
        }
        let resolved = self.inner().until(|state| {
            let status = &state.status;
            let replaced = status.incarnation != incarnation;
            (status.is_start_resolved() || replaced).then(|| {
                let failed = state.state() == ServiceState::Failed && !replaced;
                failed.then(|| status.last_error.clone()).flatten()
            })
        });
        match tokio::time::timeout_at(deadline, resolved).await {
            Ok(Some(error)) => Err(error),
            Ok(None) => Ok(()),
            Err(_) => {
                let limit = START_TIMEOUT.as_secs();
                self.inner().log(|| {
                    warn!(service.id = %self.id(), "still starting after {limit} s; the start continues in the background");
                });
                Ok(())
            }
        }
    }

    /// Stops the service and waits until its current run has ended and `cleanup` has run. If the service does not run,
    /// this succeeds at once. Dropping the future does not cancel the stop.
    ///
    /// The current run and then `cleanup` each have at most `drain_timeout` (default 30 s); after that they are
    /// aborted. Blocking code cannot be aborted: it is left behind, and `cleanup` follows when it returns.
    /// `shutdown_timeout` does not apply.
    ///
    /// Called from within the service's own run, it returns at once, and that run is the last.
    ///
    /// # Errors
    /// None at present.
    pub async fn stop(&self) -> Result<()> {
        let by_itself = self.inner().is_current();
        self.registry.waiting(self.inner().stop(StopRequest { by_itself, ..StopRequest::default() })).await;
        Ok(())
    }

    /// Pauses the service, and returns at once. No scheduled run follows. The current run of an `update` continues to
    /// its end. A `run` is requested to end, and is cancelled after `drain_timeout`. The instance is kept.
    ///
    /// The pause lasts until [`resume`](Self::resume), or until the service ends; it is not stored.
    ///
    /// # Errors
    /// The service does not run, or is paused already.
    pub async fn pause(&self) -> Result<()> {
        self.inner().request_pause(if self.inner().is_current() { PausedBy::Itself } else { PausedBy::Handle })
    }

    /// Resumes a paused service, and returns at once. A `run` begins again. If a run became due during the pause, it
    /// begins at once.
    ///
    /// # Errors
    /// The service is not paused, or an operator override pauses it.
    pub async fn resume(&self) -> Result<()> {
        self.inner().request_resume()
    }

    /// Starts a `Failed` service with a fresh instance, and sets its count of failures to 0. Waits as
    /// [`start`](Self::start) does. With `scope = "cluster"`, the service is started again on every replica on which it
    /// is `Failed`, within seconds. If no replica is known on which it is `Failed`, the call waits 1 s and reads that
    /// again: a replica may not have written its failure yet.
    ///
    /// Called from within the service's own run, it returns at once, and a fresh instance follows that run, unless the
    /// run ends by a stop or by `Recovery::Stop`.
    ///
    /// # Errors
    /// The service is not `Failed`; it is ending; it was registered as a ready-made instance; or it failed permanently
    /// again during the start. With `scope = "cluster"`, if the service is not `Failed` on this replica, also: the
    /// database does not answer. (If it is `Failed` here, that is only a warning.)
    pub async fn reset(&self) -> Result<()> {
        if self.inner().is_current() {
            let mut state = self.inner().lock();
            if !self.service.factory.has_next() {
                return Err(ready_made_has_ended(self.id()));
            }
            if state.requests.stop.is_some() || state.status.is_ending() {
                return state.refuse(self.id(), "reset", state.why_down());
            }
            state.request_rebuild(Rebuild::Reset);
            return Ok(());
        }
        let session = self.registry.session_of_call();
        let mut failed_elsewhere = 0;
        if self.inner().lease.is_some()
            && let Some(leases) = self.registry.inner.extension.leases()
        {
            match self.registry.waiting(leases.reset_others(self.inner())).await {
                Ok(count) => failed_elsewhere = count,
                Err(error) if self.state() != ServiceState::Failed => return Err(error),
                Err(error) => {
                    let id = self.id();
                    self.inner().log(|| warn!(service.id = %id, "reset on this replica only, the others cannot be reached: {error:#}"));
                }
            }
        }
        {
            let state = self.inner().lock();
            if state.state() != ServiceState::Failed {
                if failed_elsewhere > 0 {
                    return Ok(());
                }
                let why = match state.status.is_ending() {
                    true => state.why_down().to_owned(),
                    false => format!("it has not failed, it is {}", state.state()),
                };
                return state.refuse(self.id(), "reset", why);
            }
        }
        self.reset_in(session).await
    }

    /// Starts a `Failed` service on this replica.
    pub(crate) async fn reset_here(&self) -> Result<()> {
        self.reset_in(self.registry.session_of_call()).await
    }

    async fn reset_in(&self, session: Option<Arc<Session>>) -> Result<()> {
        let why_not = |state: &RuntimeState| (state.state() != ServiceState::Failed).then_some("it has not failed");
        self.launch("reset", session, why_not).await
    }

    /// Wakes the service: its next run is due now, without jitter; the grid of its schedule stays. Several calls before
    /// that run lead to one run. If the service is starting, running, paused or backing off, its next run serves the
    /// call. A service that does not run, and one with `run`, ignore it. With `scope = "cluster"`, on a replica that
    /// stands by, or on which the service has ended, the call reaches the replica that runs it, within seconds.
    pub fn wake(&self) {
        self.registry.wake(self.inner());
    }

    /// Starts a run now, or as soon as the current run has ended, and waits for its end. A paused service runs once and
    /// stays paused. The schedule's grid does not move. Dropping the future does not cancel the run.
    ///
    /// A run that has failed is not an `Err`: check [`RunReport::error`]. The call has no time limit of its own: the
    /// `timeout` of the service limits the run, and the wait for a current run comes before it.
    ///
    /// Called from within the service's own run, it returns an empty report at once, and the next run follows that one.
    /// With `scope = "cluster"`, on a replica that stands by, or on which the service has ended, the replica that holds
    /// the lease makes the run, and an error in the report is the text of that replica's error.
    ///
    /// # Errors
    /// The service does not run, has `run`, or is still starting (a [`StateError`](crate::StateError)); or it ended
    /// before the run. If another replica makes the run, there are three more errors: no replica holds the lease within
    /// 60 s; that replica loses the lease before the run has ended; the database does not answer.
    pub async fn run_now(&self) -> Result<RunReport> {
        if self.inner().is_current() {
            self.inner().request_run(None)?;
            return Ok(RunReport::default());
        }
        // No replica makes a single run of a service with `run`.
        let is_long = self.inner().lock().requests.options.long_run().is_some();
        let leases = || self.registry.inner.extension.leases().filter(|_| !is_long);
        let elsewhere = self.state() == ServiceState::Standby || self.runs_elsewhere().await;
        if let Some(leases) = leases().filter(|_| elsewhere) {
            return self.registry.waiting(leases.request_run(self.inner())).await;
        }
        let (waiter, report) = oneshot::channel();
        if let Err(error) = self.inner().request_run(Some(waiter)) {
            // It may have been handed over since.
            let leases = leases().filter(|_| self.state() == ServiceState::Standby);
            let Some(leases) = leases else { return Err(error) };
            return self.registry.waiting(leases.request_run(self.inner())).await;
        }
        self.registry.waiting(report).await.map_err(|_| self.inner().ended_before_run())
    }

    /// Whether the service does not run here, and another replica holds its lease.
    pub(crate) async fn runs_elsewhere(&self) -> bool {
        let Some(leases) = self.registry.inner.extension.leases().filter(|_| self.inner().has_ended_here()) else {
            return false;
        };
        let id = [self.inner().id.clone()];
        match self.registry.waiting(leases.read_leases(&id)).await {
            Ok(rows) => rows.values().any(|row| !row.left.is_zero() && !leases.is_own(row)),
            Err(_) => false,
        }
    }

    /// Waits until the service reaches `state`; returns at once if it is in this state now. A state that the service
    /// had only for a moment since this call counts, too. Dropping the future changes nothing.
    ///
    /// There is no time limit: wrap the call in `tokio::time::timeout` if the state may never be reached, for example
    /// `Running` of a service that is stopped.
    ///
    /// ```
    /// # use service_core::prelude::*;
    /// # async fn example(mailer: ServiceHandle) -> Result<()> {
    /// use std::time::Duration;
    /// use tokio::time::timeout;
    ///
    /// timeout(Duration::from_secs(10), mailer.wait_for(ServiceState::Running)).await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The service is `Failed` or unregistered, and so will not reach the state.
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
    /// Returns the service with this id.
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
