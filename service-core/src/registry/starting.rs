//! Starting: dependencies first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::log::{self, error, warn};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::observe::startup_table;
use crate::registry::handle::{START_TIMEOUT, ServiceHandle};
use crate::registry::service_registry::{Phase, ServiceRegistry};
use crate::registry::session::Session;
use crate::runtime::context::Context;
use crate::runtime::dependencies;
use crate::runtime::factory::ready_made_has_ended;
use crate::runtime::registration::RegisteredService;
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::status::{Exit, WaitReason};
use crate::runtime::supervisor::{Supervisor, supervise};
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;

/// What would end a process in which no service runs any more.
const ENDS_OTHERWISE: &str = "with `strict` or `critical = true` the process would have ended";

/// A service that is being started, and its incarnation.
type Started = (ServiceHandle, u32);

/// What the start of all services has begun.
struct Begun {
    started: Vec<Started>,
    /// Those that an earlier call has started, which was dropped or still waits.
    elsewhere: Vec<Started>,
    #[allow(clippy::vec_box, reason = "each moves to a task of its own")]
    loops: Vec<Box<Supervisor>>,
}

impl ServiceRegistry {
    /// Starts every enabled service that does not run, also after [`stop_all`](Self::stop_all) or
    /// [`shutdown`](Self::shutdown). Waits until each is running or its first `configure` has failed, at most 30 s.
    /// Services that are `Failed` need [`reset`](crate::ServiceHandle::reset). Dropping the future stops no service
    /// that has started. If it is dropped while it still waits for the database, no service is started.
    ///
    /// All code of the services runs on the tokio runtime on which the registry was first started, even if a later call
    /// comes from another runtime.
    ///
    /// # Errors
    /// There is no tokio runtime; a shutdown is in progress; the address of the admin interface is in use; the database
    /// answers, but the framework's tables are missing and cannot be created (or `.migrate(false)` forbids it); or,
    /// with [`strict`](crate::RegistryBuilder::strict), a first `configure` failed. Without `strict`, a service that
    /// cannot start is not an error; nor is a database that does not answer. Health shows both.
    pub async fn start(&self) -> Result<()> {
        let session = self.reopen();
        if !session.is_open() {
            return Err(Error::msg("cannot start: a shutdown is in progress"));
        }
        session.begin_start();
        let started = self.on_runtime(self.start_services(&session)).await;
        if started.is_ok() && session.is_open() {
            // In this order: systemd may request a reload as soon as it knows that the services are ready, and a reload
            // is announced only after the start.
            session.mark_started();
            self.announce(Phase::Ready);
            return Ok(());
        }
        session.cancel_start();
        self.stop_idle_companions().await;
        started
    }

    /// Stops the companions if no service runs.
    pub(super) async fn stop_idle_companions(&self) {
        if !self.inner.services.any_runs() {
            self.stop_companions().await;
        }
    }

    async fn start_services(&self, session: &Arc<Session>) -> Result<()> {
        let inner = &self.inner;
        let runtime = inner.home.handle()?;
        self.start_companions().await?;
        self.waiting(inner.extension.before_all(&inner.services)).await?;
        self.keep_watching(&runtime);
        if !inner.holds_time() {
            inner.extension.until_listening(&inner.services).await;
        }
        let begun_at = Instant::now();
        let Begun { started, elsewhere, loops } = self.begin_enabled(session)?;
        // Other replicas see only services that have begun, and those that do not start.
        if session.is_open() {
            self.join_replicas();
        }
        // All services have begun before the first one runs and perhaps fails.
        for supervisor in loops {
            self.spawn(&runtime, supervisor);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        for (handle, incarnation) in started.iter().chain(&elsewhere) {
            if let Err(error) = self.waiting(handle.started(*incarnation, deadline)).await {
                handle.service.inner.log(|| error!(service.id = %handle.id(), "did not start: {error:#}"));
            }
        }
        if inner.strict {
            self.check_strictly(begun_at, &started, &elsewhere).await?;
        }
        Ok(())
    }

    /// Begins every service that is enabled and does not run. Does not spawn the loops.
    fn begin_enabled(&self, session: &Session) -> Result<Begun> {
        let is_inside = self.is_inside();
        let (mut started, mut elsewhere, mut loops) = (Vec::new(), Vec::new(), Vec::new());
        for service in dependencies::start_tiers(self.inner.services.all()).into_iter().flatten() {
            let is_wanted = |state: &RuntimeState| {
                let down = matches!(state.state(), ServiceState::Created | ServiceState::Stopped);
                down && state.requests.options.enabled && !state.requests.unregistered
            };
            let (wanted, state, starting) = {
                let state = service.inner.lock();
                let starting = state.status.is_running() && !state.status.is_start_resolved();
                (is_wanted(&state), state.state(), starting.then_some(state.status.incarnation))
            };
            if !wanted {
                if state == ServiceState::Draining {
                    service.inner.log(|| warn!(service.id = %service.id(), "not started: it is still stopping"));
                }
                // An earlier call, which was dropped or still waits, has started it. Called from the code of a service,
                // it could wait for itself.
                if let Some(incarnation) = starting.filter(|_| !is_inside) {
                    elsewhere.push((self.handle(service), incarnation));
                }
                continue;
            }
            if !service.factory.has_next() {
                let why = ready_made_has_ended(service.id());
                service.inner.log(|| warn!(service.id = %service.id(), "not started: {why}"));
                continue;
            }
            let mut skipped = false;
            let begun = self.begin(session, &service, "start", |state| {
                skipped = !is_wanted(state);
                if skipped { state.refuse(service.id(), "start", "it was started in the meantime") } else { Ok(()) }
            });
            match begun {
                Ok(supervisor) => {
                    started.push((self.handle(service), supervisor.incarnation()));
                    loops.push(supervisor);
                }
                Err(_) if skipped => {}
                // A shutdown has begun in the meantime. `closed` returns its result.
                Err(_) if !session.is_open() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Begun { started, elsewhere, loops })
    }

    /// With `strict`: returns an error, and stops the services that were started, if a first `configure` failed, even
    /// if a retry has succeeded since the start began at `begun_at`. Services that another call has started are not
    /// stopped.
    async fn check_strictly(&self, begun_at: Instant, started: &[Started], elsewhere: &[Started]) -> Result<()> {
        let services = &self.inner.services;
        let mut failed = Vec::new();
        for ServiceHandle { service, .. } in started.iter().chain(elsewhere).map(|(handle, _)| handle) {
            // A copy: the text of an error is user code, which may lock the state.
            let status = service.inner.lock().status.clone();
            let is_suspected = match status.is_ready() {
                true => status.first_suspected,
                false => matches!(status.wait_reason.as_deref(), Some(WaitReason::Outage(_))),
            };
            let in_outage = is_suspected && services.database_was_down_since(begun_at, &service.inner);
            if status.first_failed && !in_outage {
                let why = status.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"));
                failed.push(format!("service `{}` did not start{why}", service.id()));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let (registry, started) = (self.clone(), started.iter().map(|(handle, _)| handle.service.clone()).collect());
        self.run_outside(self.is_inside(), async move { registry.stop_tiers(started, None).await }).await;
        Err(Error::msg(failed.join("; ")))
    }

    /// The start of a program: logs a table of all services, then calls [`start`](Self::start).
    pub(crate) async fn start_announced(&self) -> Result<()> {
        if cfg!(panic = "abort") {
            warn!("this program is built with panic = \"abort\": a panic in a service ends the whole process");
        }
        startup_table::log(&self.inner.services);
        self.start().await
    }

    /// Returns the session of a call that begins a service later: a shutdown that begins meanwhile refuses it. `None`
    /// after a shutdown: then the call begins a new session, when it begins the service.
    pub(super) fn session_of_call(&self) -> Option<Arc<Session>> {
        Some(self.session()).filter(|session| !session.is_closed())
    }

    /// Returns the session. After a shutdown, a start begins a new one.
    pub(super) fn reopen(&self) -> Arc<Session> {
        let mut session = self.inner.session.lock();
        if session.is_closed() {
            *session = Arc::new(session.next());
        }
        session.clone()
    }

    /// A service is `Failed` permanently: shuts down if it is critical, and reports if no service runs any more.
    fn after_failure(&self, service: &RegisteredService) {
        let is_critical = service.inner.lock().requests.options.critical;
        let leases = self.inner.extension.leases().filter(|_| service.inner.lease.is_some());
        match leases {
            // Another replica may still run it: if not, the registry shuts down later.
            Some(_) if is_critical => return,
            None if is_critical => return self.critical_failure(service.id()),
            _ => {}
        }
        self.report_idle(match leases {
            Some(_) => "another replica may run this one",
            None => ENDS_OTHERWISE,
        });
    }

    /// A service has stopped: reports if no service runs any more because of failures.
    fn after_stop(&self, service: &RegisteredService) {
        let by_itself = service.inner.lock().requests.stop.as_ref().is_none_or(|stop| stop.by_itself);
        let has_failed = |other: &Arc<RegisteredService>| other.inner.lock().state() == ServiceState::Failed;
        if by_itself && self.inner.services.all().iter().any(has_failed) {
            self.report_idle(ENDS_OTHERWISE);
        }
    }

    fn report_idle(&self, else_ended: &str) {
        if self.session().is_open() && !self.inner.services.any_runs() {
            error!(
                "no service runs any more, but the process continues; `reset` starts a failed service again; {else_ended}"
            );
        }
    }

    /// Starts the extension's own tasks, except on virtual time, which calls `refresh` instead.
    pub(super) fn keep_watching(&self, runtime: &Handle) {
        if let Some(leases) = self.inner.extension.leases() {
            leases.start(self.inner.clone(), &self.inner.services, runtime);
        }
        if !self.inner.holds_time() {
            self.inner.extension.keep_watching(&self.inner.services, runtime);
        }
        self.inner.probes.iter().for_each(|probe| probe.keep_watching(runtime));
    }

    /// Shows this process to other replicas, since it starts services.
    pub(super) fn join_replicas(&self) {
        if let Some(leases) = self.inner.extension.leases() {
            leases.join();
        }
    }

    /// Begins a service's next incarnation if `may_begin`, called under its lock, allows it. Does not spawn its loop.
    pub(super) fn begin(
        &self,
        session: &Session,
        service: &Arc<RegisteredService>,
        action: &'static str,
        may_begin: impl FnOnce(&RuntimeState) -> Result<()>,
    ) -> Result<Box<Supervisor>> {
        let (inner, extension) = (&service.inner, &self.inner.extension);
        let (incarnation, run) = inner.update(|state| {
            may_begin(state)?;
            if !session.is_open() {
                return state.refuse(service.id(), action, "a shutdown is in progress");
            }
            if inner.shared.keeps_runs.load(Ordering::SeqCst) {
                let history = state.history.get_or_insert_default();
                if inner.shared.keeps_durations.load(Ordering::SeqCst) {
                    history.keep_durations();
                }
            }
            // What was reported since the last run, such as by `cleanup`.
            let _ = state.count_progress();
            state.requests.begin();
            state.requests.woken = extension.start_notifies() && !state.requests.options.wake_on.is_empty();
            state.status.begin();
            Ok((state.status.incarnation, state.status.stats.runs))
        })?;
        let cx = Context::new(inner.clone(), self.inner.clone(), incarnation, run);
        Ok(Box::new(Supervisor::new(cx, service.clone(), self.inner.services.clone(), extension.clone())))
    }

    /// Spawns the loop of a service that has begun.
    pub(super) fn spawn(&self, runtime: &Handle, mut supervisor: Box<Supervisor>) {
        self.inner.services.shared.set_runtime(runtime);
        let registry = self.clone();
        let labels = supervisor.registered().inner.labels.text().cloned();
        let work = async move {
            let exit = supervise(&mut supervisor).await;
            if let Some(leases) =
                registry.inner.extension.leases().filter(|_| supervisor.registered().inner.lease.is_some())
            {
                leases.report_soon();
            }
            match exit {
                Exit::Stopped => registry.after_stop(supervisor.registered()),
                Exit::Failed => registry.after_failure(supervisor.registered()),
                Exit::Shutdown => registry.shut_down_after_start(),
            }
        };
        let task = match labels {
            Some(labels) => runtime.spawn(log::labelled(labels, work)),
            None => runtime.spawn(work),
        };
        if self.inner.holds_time() {
            let mut tasks = self.inner.tasks.lock();
            tasks.retain(|task| !task.is_finished());
            tasks.push(task);
        }
    }

    /// Ends the loops of all services, as the end of the process does, and returns their tasks. For tests on virtual
    /// time.
    pub(crate) fn abort_services(&self) -> Vec<JoinHandle<()>> {
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        tasks.iter().for_each(JoinHandle::abort);
        tasks
    }
}
