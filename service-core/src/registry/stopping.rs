//! Stopping: dependencies last, and after all others the services that are `stop_last`. A shutdown has a time limit,
//! which the tiers share.

use std::sync::Arc;
use std::time::Duration;

use crate::log::error;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::registry::all;
use crate::registry::service_registry::{Phase, ServiceRegistry};
use crate::registry::session::{Session, WaitGuard};
use crate::registry::signals;
use crate::runtime::dependencies;
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::StopRequest;
use crate::runtime::status::Status;
use crate::schedule::later;
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;

/// How long the shutdown after a critical failure waits for services that are being started.
const START_GRACE: Duration = Duration::from_millis(100);
/// How long other replicas may still be informed when the time of a shutdown is over.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// A shutdown in progress: if its runtime shuts down, it ends all the same.
struct Unfinished(Arc<Session>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.0.is_closed() {
            self.0.finish(Err(Error::msg("the runtime of the services has shut down before the services had stopped")));
        }
    }
}

impl ServiceRegistry {
    /// Stops every service, dependencies last and `stop_last` ones after all others, and waits until all are drained
    /// and cleaned up. They stay registered. One tier of dependencies is stopped after the other, so the times of the
    /// tiers add up: in each, a service has the time that [`ServiceHandle::stop`](crate::ServiceHandle::stop) has.
    /// `shutdown_timeout` does not apply.
    ///
    /// Called from within a service's run, it returns at once. If the future is dropped, the services whose stop has
    /// not been requested yet keep running.
    pub async fn stop_all(&self) {
        let registry = self.clone();
        let all = self.inner.services.all();
        self.run_outside(self.is_inside(), async move { registry.stop_tiers(all, None).await }).await;
    }

    /// Stops every service, cleans it up and removes it. Takes as long as [`stop_all`](Self::stop_all). Called from
    /// within a service's run, it returns at once.
    ///
    /// If the future is dropped, the services whose stop has not been requested yet keep running, and those that are
    /// not removed yet stay registered.
    pub async fn cleanup_all(&self) {
        let registry = self.clone();
        let work = async move {
            registry.stop_tiers(registry.inner.services.all(), None).await;
            for service in registry.inner.services.all() {
                registry.inner.services.unregister(&service).await;
            }
        };
        self.run_outside(self.is_inside(), work).await;
    }

    /// Stops every service within [`shutdown_timeout`](crate::RegistryBuilder::shutdown_timeout) (default 25 s; what
    /// follows it is described there), dependencies last, and after all others those with `stop_last = true` and their
    /// dependencies. The tiers of dependencies share that time. A current run has at most four fifths of its tier's
    /// share (and at most `drain_timeout`), `cleanup` the rest. If a shutdown is in progress, waits for its end. If a
    /// shutdown has finished, and no start has followed, returns its result again.
    ///
    /// Called from within a service's run, it returns at once. Dropping the future does not cancel the shutdown.
    ///
    /// # Errors
    /// A service is `Failed`, from before or during the shutdown, or has not stopped when the time is over. The message
    /// names each such service. A run or a `cleanup` that is aborted is no error: the log and the event
    /// [`Aborted`](crate::ServiceEventKind::Aborted) name it.
    pub async fn shutdown(&self) -> Result<()> {
        let session = self.session();
        self.begin_shutdown();
        if self.is_inside() { Ok(()) } else { self.waiting(session.closed()).await }
    }

    /// Waits until a shutdown begins; returns at once if one has begun. For axum's `with_graceful_shutdown`, for
    /// example. After [`start_all`](Self::start_all), a signal begins a shutdown. Dropping the future changes nothing.
    ///
    /// In a [`TestBed`](crate::testing::TestBed) with a database, time does not move while a test awaits this, since
    /// the services' own tasks may await it all the time: let time move by `run_for` beside it.
    pub async fn stopping(&self) {
        let session = self.session();
        let _waits = self.wait_for_signals(&session);
        session.closing().await;
    }

    /// Waits until a shutdown has finished. Every caller gets its result. Dropping the future changes nothing.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown).
    pub async fn closed(&self) -> Result<()> {
        let session = self.session();
        let _waits = self.wait_for_signals(&session);
        self.waiting(session.closed()).await
    }

    /// While the guard exists, a signal begins a shutdown. A signal that arrived earlier begins it now.
    fn wait_for_signals<'a>(&self, session: &'a Session) -> WaitGuard<'a> {
        let guard = session.wait_guard();
        if let Some(signal) = session.first_signal().filter(|_| session.is_open()) {
            // Logged first, because the process may end soon after the shutdown has begun.
            signals::log_shutdown(signal);
            self.begin_shutdown();
        }
        guard
    }

    /// Waits for SIGINT (Ctrl-C) or SIGTERM, for the failure of a critical service, or for a
    /// [`shutdown`](Self::shutdown) that other code requests; then shuts down and returns the result. A second signal
    /// ends the process at once, with exit status 128 + the number of the signal.
    ///
    /// Signals are handled on a thread of their own, from [`start_all`](Self::start_all) on. After
    /// [`build`](crate::RegistryBuilder::build) they are handled from the first poll of this future on; a signal before
    /// that ends the process without a shutdown. If signal handlers cannot be installed, that is a warning: then a
    /// signal ends the process without a shutdown.
    ///
    /// A tokio runtime waits forever for blocking code that does not return, and for an async run that blocks its
    /// thread. So three seconds after the shutdown, the process is ended. If another registry of the process still runs,
    /// the process is ended when that one has stopped, too.
    ///
    /// Dropping the future stops no service, and does not cancel a shutdown that has begun. The signal handlers stay
    /// installed. A later signal begins a shutdown only if other code waits in [`stopping`](Self::stopping) or
    /// [`closed`](Self::closed). Otherwise, unless the program calls [`shutdown`](Self::shutdown), the signal ends the
    /// process after `shutdown_timeout`, without `cleanup`.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown).
    pub async fn until_shutdown(self) -> Result<()> {
        signals::until_shutdown(&self).await
    }

    /// Begins a shutdown, as a task of its own. Returns `false` if one has begun already.
    pub(crate) fn begin_shutdown(&self) -> bool {
        let session = self.session();
        if !session.close() {
            return false;
        }
        let goes_on = |other: &ServiceRegistry| !other.inner.without_systemd && other.session().is_open();
        if !all::another_runs(self, goes_on) {
            self.announce(Phase::Stopping);
        }
        let (registry, unfinished) = (self.clone(), Unfinished(session.clone()));
        let work = async move {
            let deadline = later(Instant::now(), registry.inner.shutdown_timeout);
            let all = registry.inner.services.all();
            registry.stop_tiers(all.clone(), Some(deadline)).await;
            let inform_others = async {
                registry.inner.extension.send_rest().await;
                if let Some(leases) = registry.inner.extension.leases() {
                    leases.stop().await;
                }
            };
            // The database may hang.
            let _ = tokio::time::timeout_at(deadline.max(later(Instant::now(), LAST_GRACE)), inform_others).await;
            registry.stop_companions().await;
            unfinished.0.finish(registry.shutdown_result(all));
        };
        // Before the first start there is no runtime of the services, and this caller's must not become it.
        match self.inner.home.current().map_or_else(Handle::try_current, Ok) {
            Ok(runtime) => _ = runtime.spawn(work),
            Err(error) => session.finish(Err(Error::new(error))),
        }
        true
    }

    /// A critical service is `Failed` permanently: begins a shutdown.
    pub(crate) fn critical_failure(&self, id: &str) {
        error!(service.id = %id, "a critical service failed permanently: the registry shuts down");
        self.shut_down_after_start();
    }

    /// Begins a shutdown as soon as no service is starting.
    pub(super) fn shut_down_after_start(&self) {
        let registry = self.clone();
        tokio::spawn(async move {
            // Services that were started together with this one are built first, so that they are cleaned up.
            let _ = tokio::time::timeout(START_GRACE, registry.starts_resolved()).await;
            registry.begin_shutdown();
        });
    }

    /// Waits until no service is starting.
    async fn starts_resolved(&self) {
        for service in self.inner.services.all() {
            let resolved = |status: &Status| status.is_start_resolved() || !status.is_running();
            service.inner.until(|state| resolved(&state.status).then_some(())).await;
        }
    }

    pub(super) async fn stop_tiers(&self, services: Vec<Arc<RegisteredService>>, deadline: Option<Instant>) {
        let tiers = dependencies::stop_tiers(services);
        let runs = |service: &Arc<RegisteredService>| service.inner.lock().status.is_running();
        let running: Vec<bool> = tiers.iter().map(|tier| tier.iter().flatten().any(runs)).collect();
        for (n, tier) in tiers.into_iter().enumerate() {
            let now = Instant::now();
            // The remaining tiers with something to stop share the remaining time.
            let left = running[n..].iter().filter(|runs| **runs).count().max(1);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let share = deadline.map(|deadline| deadline.saturating_duration_since(now) / left);
            let stop = StopRequest {
                run: share.map(|share| later(now, share.mul_f64(0.8))),
                cleanup: share.map(|share| later(now, share.mul_f64(0.95))),
                // A little before the registry stops waiting.
                end: share.map(|share| later(now, share.mul_f64(0.99))),
                ..StopRequest::default()
            };
            for step in tier {
                for service in &step {
                    service.inner.request_stop(stop);
                }
                for service in step {
                    self.wait_for_stop(service, stop, share.map(|share| later(now, share))).await;
                }
            }
        }
    }

    async fn wait_for_stop(&self, service: Arc<RegisteredService>, stop: StopRequest, deadline: Option<Instant>) {
        let handle = self.handle(service);
        let stopped = handle.service.inner.stop(stop);
        let Some(deadline) = deadline else { return stopped.await };
        if tokio::time::timeout_at(deadline, stopped).await.is_err() {
            handle
                .service
                .inner
                .log(|| error!(service.id = %handle.id(), "did not stop in time; the shutdown continues without it"));
        }
    }

    /// Returns an error that names the services that are `Failed` or still run. `stopped` are those that were
    /// registered when the shutdown began: services that belong to an instance are removed with it.
    fn shutdown_result(&self, stopped: Vec<Arc<RegisteredService>>) -> Result<()> {
        let mut services = stopped;
        for service in self.inner.services.all() {
            if !services.iter().any(|known| Arc::ptr_eq(known, &service)) {
                services.push(service);
            }
        }
        let mut failed = Vec::new();
        for service in services {
            let state = service.inner.lock();
            match state.state() {
                ServiceState::Failed => {
                    let error = state.status.last_error.clone();
                    drop(state);
                    let why = error.map_or_else(String::new, |error| format!(": {error:#}"));
                    failed.push(format!("service `{}` failed{why}", service.id()));
                }
                state if state.is_running() => failed.push(format!("service `{}` did not stop in time", service.id())),
                _ => {}
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Error::msg(failed.join("; "))) }
    }
}
