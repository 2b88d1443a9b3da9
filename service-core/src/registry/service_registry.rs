//! [`ServiceRegistry`]: the services of a program.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::ServiceDescriptor;
use crate::observe::health::{self, RegistryHealth};
use crate::registry::home::Home;
use crate::registry::session::Session;
use crate::runtime::events::ServiceEvent;
use crate::runtime::extension::{Extension, VirtualTime};
use crate::runtime::lifecycle::{BoxFuture, Discovered};
use crate::runtime::probe::Probe;
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::PausedBy;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::service::error::Result;
use crate::sync::Mutex;

/// How long after `shutdown_timeout` a shutdown is overdue: when the services have stopped, a few steps follow.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// The services of a program. Cheap to clone. Dropping it stops nothing.
///
/// ```no_run
/// use service_core::prelude::*;
///
/// # async fn example() -> Result<()> {
/// let services = ServiceRegistry::start_all().await?;
/// services.until_shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct ServiceRegistry {
    pub(crate) inner: Arc<RegistryInner>,
}

pub(crate) struct RegistryInner {
    pub(crate) services: Arc<Services>,
    pub(crate) extension: Arc<dyn Extension>,
    pub(crate) virtual_time: Option<Arc<dyn VirtualTime>>,
    pub(crate) shutdown_timeout: Duration,
    /// A first `configure` that fails makes the start fail.
    pub(super) strict: bool,
    pub(super) probes: Vec<Arc<Probe>>,
    pub(super) companions: Vec<Arc<dyn Companion>>,
    /// The loops of the services. Only on virtual time.
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) home: Home,
    pub(super) session: Mutex<Arc<Session>>,
    /// Locked while the configuration file is read again. The changes that need a restart and are reported already.
    pub(super) reloading: tokio::sync::Mutex<Reported>,
    /// It does not notify systemd.
    pub(super) without_systemd: bool,
    /// Signals shut it down.
    pub(super) listens: AtomicBool,
}

impl RegistryInner {
    /// Whether time only moves in calls that wait for services.
    pub(super) fn holds_time(&self) -> bool {
        self.virtual_time.as_ref().is_some_and(|time| time.is_held())
    }

    /// How long a shutdown has been in progress that should have ended; `None` if there is none.
    pub(crate) fn overdue_shutdown(&self) -> Option<Duration> {
        let limit = self.shutdown_timeout.saturating_add(SHUTDOWN_GRACE);
        self.session.lock().closing_for().filter(|going| *going > limit)
    }
}

/// Changes of the configuration file that need a restart: the name of the service or of its type, the key, and the
/// value after a restart.
pub(super) type Reported = BTreeSet<(String, &'static str, String)>;

/// What a feature runs beside the services of one registry.
pub(crate) trait Companion: Any + fmt::Debug + Send + Sync {
    /// Called at every start, of all services or of one, before code of a service runs. It may be called again before
    /// `stop`.
    ///
    /// # Errors
    /// Then no service is started.
    fn start<'a>(&'a self, registry: &'a ServiceRegistry) -> BoxFuture<'a, Result<()>>;

    /// Called at the end of a shutdown, when all services have stopped.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Called when the registry enters a phase.
    fn enter(&self, _phase: Phase) {}
}

/// A phase of a registry. All are entered after [`Companion::start`] and before [`Companion::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The start of all services has returned, or, after a shutdown, that of one.
    Ready,
    /// The configuration file is read again.
    Reloading,
    /// The configuration file was applied, or has a mistake.
    Reloaded,
    /// A shutdown begins.
    Stopping,
}

impl ServiceRegistry {
    /// Returns every annotated service that is linked into the program, sorted by id. Starts nothing.
    pub fn discovered() -> Vec<&'static ServiceDescriptor> {
        let mut found: Vec<_> = inventory::iter::<Discovered>().map(|discovered| discovered.0).collect();
        found.sort_by_key(|descriptor| (descriptor.id, descriptor.file, descriptor.line));
        found
    }

    // ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Returns the ids of all services, sorted.
    pub fn list(&self) -> Vec<String> {
        self.inner.services.all().iter().map(|service| service.id().to_string()).collect()
    }

    /// Wakes every service that has this topic in `wake_on`, as [`ServiceHandle::wake`](crate::ServiceHandle::wake)
    /// does. With a PostgreSQL database also those of other replicas; if the database is down, when it answers again.
    /// Never waits, and never fails.
    pub fn notify(&self, topic: &str) {
        self.inner.extension.notify(&self.inner.services, topic);
    }

    /// Wakes a service, here or on the replica that holds its lease.
    pub(crate) fn wake(&self, service: &ServiceInner) {
        // If it has begun to stand by since this check, its loop forwards the wake-up.
        if !service.stands_by() && service.request_wake() {
            return;
        }
        let is_elsewhere = || service.stands_by() || service.has_ended_here() && self.session().is_open();
        if let Some(leases) = self.inner.extension.leases().filter(|_| is_elsewhere()) {
            leases.forward_wake(&service.id);
        }
    }

    /// Returns a health snapshot of all services. Never waits, and reads only memory, so a handler of a web server may
    /// call it.
    ///
    /// ```
    /// # use service_core::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let services = ServiceRegistry::builder().without_discovered().build().await?;
    /// let health = services.health();
    /// assert_eq!(health.status, HealthStatus::Healthy);
    /// println!("{}", serde_json::to_string(&health)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> RegistryHealth {
        let services = self.inner.services.all();
        RegistryHealth::new(services.iter().map(|service| self.health_of(service)).collect())
    }

    pub(crate) fn health_of(&self, service: &RegisteredService) -> health::ServiceHealth {
        health::of(&service.inner, &self.inner.services, &*self.inner.extension)
    }

    /// Subscribes to the events of all services, from now on. A subscriber that is more than 4,096 events behind loses
    /// the oldest; a `Lagged` event gives their number. Dropping the stream ends the subscription.
    ///
    /// The stream does not keep the registry alive: it ends when the registry and all its handles and contexts are
    /// dropped. `next` comes from `StreamExt` of the crate `futures-util` or `tokio-stream`.
    ///
    /// ```
    /// # #[cfg(feature = "admin")]
    /// # async fn example(services: service_core::ServiceRegistry) {
    /// use futures_util::StreamExt;
    /// use service_core::ServiceEventKind;
    ///
    /// let mut events = services.subscribe();
    /// while let Some(event) = events.next().await {
    ///     if let ServiceEventKind::RunFailed { error, .. } = &event.kind {
    ///         eprintln!("{}: {error}", event.service_id);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn subscribe(&self) -> impl Stream<Item = ServiceEvent> + Send + Unpin + use<> {
        let shared = &self.inner.services.shared;
        shared.events.subscribe(&shared.clock)
    }

    // ── all services ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Pauses every service that runs and is not paused, as [`ServiceHandle::pause`](crate::ServiceHandle::pause) does.
    /// Does not wait.
    pub async fn pause_all(&self) {
        for service in self.inner.services.all() {
            // A service that does not run, or is paused already, refuses.
            let _ = service.inner.request_pause(PausedBy::Handle);
        }
    }

    /// Resumes every paused service, except those that an operator override pauses. Does not wait.
    pub async fn resume_all(&self) {
        for service in self.inner.services.all() {
            let _ = service.inner.request_resume();
        }
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.inner.session.lock().clone()
    }

    /// Awaits `work`, which may use timers and sockets. A thread without a runtime uses those of the services' runtime.
    pub(crate) async fn on_runtime<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = if Handle::try_current().is_err() { self.inner.home.current() } else { None };
        let Some(runtime) = runtime else { return work.await };
        let mut work = pin!(work);
        std::future::poll_fn(|task| {
            let _entered = runtime.enter();
            work.as_mut().poll(task)
        })
        .await
    }

    /// Awaits `work` for a caller outside the services. Virtual time is advanced in the meantime.
    pub(crate) async fn waiting<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(time) = &self.inner.virtual_time else { return self.on_runtime(work).await };
        let mut work = pin!(work);
        let mut mover = time.mover(self.inner.services.clone(), self.inner.extension.clone());
        std::future::poll_fn(|task| {
            if let Poll::Ready(done) = work.as_mut().poll(task) {
                return Poll::Ready(done);
            }
            let _: Poll<()> = mover.as_mut().poll(task);
            Poll::Pending
        })
        .await
    }

    /// Awaits `work`. Called from a service's own code, it would wait for itself: there `work` becomes a task of its
    /// own.
    pub(super) async fn run_outside(&self, inside: bool, work: impl Future<Output = ()> + Send + 'static) {
        if inside {
            tokio::spawn(work);
        } else {
            self.waiting(work).await;
        }
    }

    /// Whether the calling thread runs the code of one of these services.
    pub(super) fn is_inside(&self) -> bool {
        self.inner.services.all().iter().any(|service| service.inner.is_current())
    }
}

impl fmt::Debug for ServiceRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRegistry").field("services", &self.list()).finish_non_exhaustive()
    }
}
