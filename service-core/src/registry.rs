//! [`ServiceRegistry`]: the services of a program, by id; starts, stops and forgets them.
//!
//! The tricky part is order: services start after, and stop before, those they depend on; within a tier all go side by
//! side. A running service holds its registry, so dropping every handle stops nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::builder::{Planned, RegistryBuilder};
use crate::config::Sources;
use crate::context::Context;
use crate::control::{Control, StopBy};
use crate::entry::{Entry, used_up};
use crate::error::{Error, Result};
use crate::event::{ServiceEvent, ServiceEventKind};
use crate::handle::ServiceHandle;
use crate::health::{self, RegistryHealth};
use crate::hub::Hub;
use crate::options::ServiceOptions;
use crate::order;
use crate::schedule::later;
use crate::service::{Discovered, Service, ServiceDescriptor};
use crate::state::ServiceState;
use crate::supervisor::supervise;

/// The services of a program. Cheap to clone; dropping it stops nothing.
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
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) hub: Arc<Hub>,
    pub(crate) sources: Sources,
    pub(crate) shutdown_timeout: Duration,
    #[cfg(feature = "database")]
    pub(crate) live: crate::database::Live,
    entries: RwLock<BTreeSet<ById>>,
    /// A shutdown was asked for.
    closing: AtomicBool,
    /// Shutdowns under way: nothing new starts.
    shutting: AtomicUsize,
    closed: Notify,
}

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

/// A service in the registry's list: ordered, and found, by its id.
struct ById(Arc<Entry>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

/// What a service that depends on others waits for.
pub(crate) struct Waiting {
    pub(crate) missing: Vec<Arc<str>>,
    /// None of them is on its way up.
    pub(crate) in_vain: bool,
}

impl ServiceRegistry {
    /// Registers every annotated service that is linked into the program, and starts those that are enabled.
    ///
    /// # Errors
    /// Wrong options, duplicate ids and dependency cycles: all of them, before anything starts. One service that cannot
    /// start is no error; its health says why.
    pub async fn start_all() -> Result<Self> {
        Self::builder().start_all().await
    }

    /// A registry with choices.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }

    /// Every annotated service that is linked into the program, sorted by id. Starts nothing.
    pub fn discovered() -> Vec<&'static ServiceDescriptor> {
        let mut found: Vec<_> = inventory::iter::<Discovered>().map(|discovered| discovered.0).collect();
        found.sort_by_key(|descriptor| (descriptor.id, descriptor.file, descriptor.line));
        found
    }

    pub(crate) fn new(hub: Hub, sources: Sources, shutdown_timeout: Duration) -> Self {
        let inner = Inner {
            hub: Arc::new(hub),
            sources,
            shutdown_timeout,
            #[cfg(feature = "database")]
            live: crate::database::Live::default(),
            entries: RwLock::default(),
            closing: AtomicBool::new(false),
            shutting: AtomicUsize::new(0),
            closed: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    // ── what there is ────────────────────────────────────────────────────────────────────────────────────────────

    /// The service with this id.
    pub fn get(&self, id: &str) -> Option<ServiceHandle> {
        let entries = self.inner.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).map(|found| self.handle(found.0.clone()))
    }

    /// All ids, sorted.
    pub fn list(&self) -> Vec<String> {
        let entries = self.inner.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|known| known.0.id.to_string()).collect()
    }

    /// How all services are.
    pub fn health(&self) -> RegistryHealth {
        RegistryHealth::new(self.entries().iter().map(|entry| health::of(entry)).collect())
    }

    /// What happens from now on, as it happens. A subscriber that is more than 4,096 events behind misses the oldest and
    /// is told how many. Dropping the stream ends the subscription.
    pub fn subscribe(&self) -> impl Stream<Item = ServiceEvent> + Send + Unpin + use<> {
        self.inner.hub.events.subscribe()
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        let entries = self.inner.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|known| known.0.clone()).collect()
    }

    fn handle(&self, entry: Arc<Entry>) -> ServiceHandle {
        ServiceHandle { entry, registry: self.clone() }
    }

    // ── registering ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Registers a ready-made instance, without starting it.
    ///
    /// # Errors
    /// The id is taken or no id, the options are wrong, or a dependency is unknown or leads back here.
    #[track_caller]
    pub fn register<S: Service>(&self, id: &str, service: S) -> impl Future<Output = Result<ServiceHandle>> + use<S> {
        let added = self.add(Planned::ready_made(id, service, None));
        async { added }
    }

    /// Registers a closure that builds instances, without starting it.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    #[track_caller]
    pub fn register_fn<S: Service, F>(
        &self,
        id: &str,
        build: F,
    ) -> impl Future<Output = Result<ServiceHandle>> + use<S, F>
    where
        F: Fn() -> S + Send + Sync + 'static,
    {
        let added = self.add(Planned::closure(id, build));
        async { added }
    }

    /// Registers a type that is built by its `configure`, or `Default`, without starting it.
    ///
    /// # Errors
    /// As for [`register`](Self::register); and the type has neither.
    #[track_caller]
    pub fn register_of<S: Service>(&self, id: &str) -> impl Future<Output = Result<ServiceHandle>> + use<S> {
        let added = Planned::of::<S>(id).and_then(|planned| self.add(planned));
        async { added }
    }

    /// Registers a ready-made instance with options of its own, without starting it.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    #[track_caller]
    pub fn register_with<S: Service>(
        &self,
        id: &str,
        service: S,
        options: ServiceOptions,
    ) -> impl Future<Output = Result<ServiceHandle>> + use<S> {
        let added = self.add(Planned::ready_made(id, service, Some(options)));
        async { added }
    }

    pub(crate) fn add(&self, planned: Planned) -> Result<ServiceHandle> {
        planned.check_id()?;
        let entry = Arc::new(planned.entry(&self.inner.hub, &self.inner.sources)?);
        let mut entries = self.inner.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(ById(taken)) = entries.get(&*entry.id) {
            return Err(Error::msg(format!(
                "service id `{}` is taken: registered at {} and again at {}; give one of them another id",
                entry.id,
                taken.place(),
                entry.place()
            )));
        }
        // Nobody can depend on a service that was not there, so that a cycle can only be one onto itself.
        if !entry.lock().options.depends_on.is_empty() {
            check_dependencies(entries.iter().map(|known| &*known.0), &[&entry])?;
        }
        entries.insert(ById(entry.clone()));
        drop(entries);
        entry.emit(|| ServiceEventKind::Registered);
        Ok(self.handle(entry))
    }

    /// Registers many at once: dependencies may stand in any order.
    pub(crate) fn add_all(&self, new: Vec<Arc<Entry>>) -> Result<()> {
        check_dependencies([].into_iter(), &new.iter().map(|entry| &**entry).collect::<Vec<_>>())?;
        let mut entries = self.inner.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.extend(new.into_iter().map(ById));
        Ok(())
    }

    /// Stops a service, cleans it up and forgets it. Asked from within the service's own run it returns at once.
    ///
    /// # Errors
    /// There is no such service.
    pub async fn unregister(&self, id: &str) -> Result<()> {
        let handle = self.get(id).ok_or_else(|| unknown(id, &self.list()))?;
        handle.entry.ask_stop(StopBy::default());
        if handle.entry.is_current() {
            tokio::spawn(self.clone().forget(handle));
        } else {
            self.waiting(self.clone().forget(handle)).await;
        }
        Ok(())
    }

    async fn forget(self, handle: ServiceHandle) {
        loop {
            handle.stop_by(StopBy::default()).await;
            let mut entries = self.inner.entries.write().unwrap_or_else(PoisonError::into_inner);
            // It may have been forgotten, and its id registered anew, while this one waited.
            if !entries.get(handle.id()).is_some_and(|ById(entry)| Arc::ptr_eq(entry, &handle.entry)) {
                return;
            }
            let mut control = handle.entry.lock();
            // Or started again: what is forgotten must not go on.
            if !control.state().is_running() {
                control.forgotten = true;
                entries.remove(handle.id());
                break;
            }
        }
        handle.entry.emit(|| ServiceEventKind::Unregistered);
        handle.entry.tell_settled(&mut handle.entry.lock());
    }

    // ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Starts everything that is enabled and does not run, also after [`stop_all`](Self::stop_all), and waits until each
    /// is running or its first `configure` has failed, at most 30 s. Failed services are left to
    /// [`reset`](ServiceHandle::reset).
    ///
    /// # Errors
    /// There is no tokio runtime; or the database is there, but lacks the framework's tables, which cannot, or shall not, be
    /// made. A service that cannot start is no error, nor is a database that is away; health says why.
    pub async fn start(&self) -> Result<()> {
        #[cfg(feature = "database")]
        crate::database::watch(self).await?;
        let mut started = Vec::new();
        for entry in self.tiers().into_iter().flatten() {
            let mut control = entry.lock();
            let down = matches!(control.state(), ServiceState::Created | ServiceState::Stopped);
            if !down || !control.options.enabled || control.forgotten {
                continue;
            }
            if !entry.factory.has_next() {
                warn!(service.id = %entry.id, "not started: {}", used_up(&entry.id));
                continue;
            }
            let life = self.launch(&entry, &mut control)?;
            drop(control);
            started.push((self.handle(entry), life));
        }
        let deadline = Instant::now() + crate::handle::START_PATIENCE;
        for (handle, life) in started {
            if let Err(error) = self.waiting(handle.started(life, deadline)).await {
                error!(service.id = %handle.id(), "did not start: {error:#}");
            }
        }
        Ok(())
    }

    /// The program's start: [`start`](Self::start), after a word on what there is.
    pub(crate) async fn start_announced(&self) -> Result<()> {
        if cfg!(panic = "abort") {
            warn!("this program is built with panic = \"abort\": a panic in a service ends the whole process");
        }
        crate::overview::log(self);
        self.start().await
    }

    /// Begins a service's life.
    pub(crate) fn launch(&self, entry: &Arc<Entry>, control: &mut Control) -> Result<u32> {
        let runtime = tokio::runtime::Handle::try_current()?;
        if control.forgotten {
            return control.refuse(&entry.id, "start", "it has been unregistered");
        }
        if self.inner.shutting.load(SeqCst) > 0 {
            return control.refuse(&entry.id, "start", "everything is being shut down");
        }
        let from = control.state();
        control.begin();
        entry.tell_change(control, from, ServiceState::Starting);
        let cx = Context { entry: entry.clone(), registry: self.clone(), life: control.life, run: control.stats.runs };
        runtime.spawn(supervise(cx));
        Ok(control.life)
    }

    /// Which of these services are not up.
    pub(crate) fn not_up(&self, ids: &[String]) -> Waiting {
        let mut waiting = Waiting { missing: Vec::new(), in_vain: true };
        for id in ids {
            let found = self.get(id);
            let state = found.as_ref().map(ServiceHandle::state);
            if matches!(state, Some(ServiceState::Running | ServiceState::Paused))
                && found.as_ref().is_some_and(|handle| handle.entry.lock().up)
            {
                continue;
            }
            let coming = found.is_some_and(|handle| {
                let control = handle.entry.lock();
                control.state() == ServiceState::Starting && !control.settled
            });
            waiting.in_vain &= !coming;
            waiting.missing.push(Arc::from(id.as_str()));
        }
        waiting
    }

    // ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────

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

    /// Pauses every service that can be paused.
    ///
    /// # Errors
    /// None so far.
    pub async fn pause_all(&self) -> Result<()> {
        for entry in self.entries() {
            // Those that cannot be paused are as wanted: they do not run, or are paused already.
            let _ = entry.ask_pause(false);
        }
        Ok(())
    }

    /// Resumes every paused service.
    ///
    /// # Errors
    /// None so far.
    pub async fn resume_all(&self) -> Result<()> {
        for entry in self.entries() {
            let _ = entry.ask_resume();
        }
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
    /// Signals are heard from the first poll on; one that comes before that ends the process undrained. Where blocking
    /// code of a service never returns, nor would the program, since its runtime waits for that code: three seconds after
    /// the shutdown the process is ended.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown); and signals cannot be listened to.
    pub async fn until_shutdown(self) -> Result<()> {
        crate::signal::until_shutdown(&self).await
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

    /// `work`, awaited by a caller outside; under test with a held clock, time moves meanwhile.
    pub(crate) async fn waiting<T>(&self, work: impl Future<Output = T>) -> T {
        #[cfg(feature = "testing")]
        if self.inner.hub.clock_is_held {
            return crate::testing::held::moving(self, work).await;
        }
        work.await
    }

    /// `work` awaited; or, inside a service's own code, where that would wait for itself, on a task of its own.
    async fn detached_inside<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Self) -> F) {
        let work = work(self.clone());
        if self.is_inside() {
            tokio::spawn(work);
        } else {
            self.waiting(work).await;
        }
    }

    /// Whether the caller stands inside the own code of one of these services.
    fn is_inside(&self) -> bool {
        self.entries().iter().any(|entry| entry.is_current())
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
                    let why =
                        control.stats.last_error.as_ref().map_or_else(String::new, |error| format!(": {error:#}"));
                    failed.push(format!("service `{}` failed{why}", entry.id));
                }
                state if state.is_running() => failed.push(format!("service `{}` did not stop in time", entry.id)),
                _ => {}
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Error::msg(failed.join("; "))) }
    }

    fn tiers(&self) -> Vec<Vec<Arc<Entry>>> {
        let entries = self.entries();
        let options: Vec<_> = entries.iter().map(|entry| entry.lock().options.clone()).collect();
        let graph = entries
            .iter()
            .zip(&options)
            .map(|(entry, options)| (&*entry.id, options.depends_on.iter().map(String::as_str).collect()))
            .collect();
        match order::tiers(&graph) {
            Ok(tiers) => {
                let by_id: BTreeMap<&str, &Arc<Entry>> = entries.iter().map(|entry| (&*entry.id, entry)).collect();
                tiers
                    .into_iter()
                    .map(|tier| tier.into_iter().filter_map(|id| by_id.get(id).map(|e| (*e).clone())).collect())
                    .collect()
            }
            // Registering refuses cycles; whatever happens, everything is stopped.
            Err(_) => vec![entries],
        }
    }
}

/// Unknown ids and cycles that the new services' dependencies bring. What an older one depends on may have been
/// unregistered since; that is not the new one's fault.
fn check_dependencies<'a>(old: impl Iterator<Item = &'a Entry>, new: &[&'a Entry]) -> Result<()> {
    let place = |entry: &'a Entry| (&*entry.id, entry.place(), entry.lock().options.clone());
    let mut known: Vec<_> = new.iter().copied().map(place).collect();
    known.extend(old.map(place));
    let graph: BTreeMap<&str, Vec<&str>> =
        known.iter().map(|(id, _, options)| (*id, options.depends_on.iter().map(String::as_str).collect())).collect();
    let mut problems = Vec::new();
    for (id, place, options) in &known[..new.len()] {
        for dependency in options.depends_on.iter().filter(|dependency| !graph.contains_key(dependency.as_str())) {
            let hint = crate::config::nearest(dependency, graph.keys().copied())
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            problems.push(format!("service `{id}` ({place}) depends on `{dependency}`, which is not registered{hint}"));
        }
    }
    if let Err(cycle) = order::tiers(&graph) {
        problems.push(format!("services depend on each other in a circle: {}", cycle.join(" -> ")));
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::msg(problems.join("; "))) }
}

fn unknown(id: &str, known: &[String]) -> Error {
    let hint = crate::config::nearest(id, known.iter().map(String::as_str))
        .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    Error::msg(format!("there is no service `{id}`{hint}"))
}

impl fmt::Debug for ServiceRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRegistry").field("services", &self.list()).finish_non_exhaustive()
    }
}
