//! [`ServiceRegistry`]: the services of a program, by id; knows, registers and forgets them.
//!
//! The tricky part is order: services start after ([`starting`]), and stop before ([`stopping`]), those they depend on;
//! within a tier all go side by side. A running service holds its registry, so dropping every handle stops nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::Notify;

use crate::config::Sources;
use crate::config::options::ServiceOptions;
use crate::observe::health::{self, RegistryHealth};
use crate::registry::builder::{Planned, RegistryBuilder};
use crate::registry::handle::ServiceHandle;
use crate::registry::signals::Ahead;
use crate::runtime::control::StopBy;
use crate::runtime::entry::Entry;
use crate::runtime::events::{ServiceEvent, ServiceEventKind};
use crate::runtime::lifecycle::{Discovered, Service, ServiceDescriptor};
use crate::runtime::shared::Hub;
use crate::service::error::{Error, Result};

pub(crate) mod builder;
pub(crate) mod dependencies;
pub(crate) mod expect;
pub(crate) mod handle;
pub(crate) mod run;
pub(crate) mod signals;
mod starting;
mod stopping;

pub(crate) use starting::check_dependencies;

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
    pub(crate) live: crate::database::TableWatcher,
    entries: RwLock<BTreeSet<ById>>,
    /// A shutdown was asked for.
    pub(crate) closing: AtomicBool,
    /// Shutdowns under way: nothing new starts.
    shutting: AtomicUsize,
    closed: Notify,
    pub(crate) ahead: Ahead,
}

/// Nobody is left who could ask for anything, and no service lives.
impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.drivers.retire();
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

impl ServiceRegistry {
    /// Registers every annotated service that is linked into the program, and starts those that are enabled; see
    /// [`start`](Self::start) for how long it waits.
    ///
    /// SIGINT and SIGTERM are listened to from here on, for [`until_shutdown`](Self::until_shutdown): one that comes
    /// earlier cuts the wait short and is found there. Where the program neither waits there nor calls
    /// [`shutdown`](Self::shutdown), a signal ends the process after `shutdown_timeout`, and a second one at once. As
    /// tokio's do, the handlers stay for the rest of the process, also when this runtime is gone. A program that has no
    /// use for that calls [`build`](RegistryBuilder::build) and [`start`](Self::start).
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
            live: crate::database::TableWatcher::default(),
            entries: RwLock::default(),
            closing: AtomicBool::new(false),
            shutting: AtomicUsize::new(0),
            closed: Notify::new(),
            ahead: Ahead::default(),
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
            let old: Vec<_> = entries.iter().map(|known| known.0.clone()).collect();
            let problems = check_dependencies(std::slice::from_ref(&entry), &old, &[]);
            if !problems.is_empty() {
                return Err(Error::msg(problems.join("; ")));
            }
        }
        entries.insert(ById(entry.clone()));
        drop(entries);
        entry.emit(|| ServiceEventKind::Registered);
        Ok(self.handle(entry))
    }

    /// Registers many at once, which have been checked together.
    pub(crate) fn add_all(&self, new: Vec<Arc<Entry>>) {
        let mut entries = self.inner.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.extend(new.into_iter().map(ById));
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

    // ── all at once ──────────────────────────────────────────────────────────────────────────────────────────────────

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

    /// `work`, awaited by a caller outside; under test with a held clock, time moves meanwhile.
    pub(crate) async fn waiting<T>(&self, work: impl Future<Output = T>) -> T {
        #[cfg(feature = "testing")]
        if self.inner.hub.clock_is_held {
            return crate::testing::virtual_clock::moving(self, work).await;
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
}

fn unknown(id: &str, known: &[String]) -> Error {
    let hint = crate::suggest::nearest(id, known.iter().map(String::as_str))
        .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    Error::msg(format!("there is no service `{id}`{hint}"))
}

impl fmt::Debug for ServiceRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRegistry").field("services", &self.list()).finish_non_exhaustive()
    }
}
