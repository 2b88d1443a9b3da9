//! [`Services`]: the registered services of one registry, by id, and the data that they share.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering as AtomicOrdering;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ServiceDescriptor;
use crate::config::Sources;
use crate::runtime::dependencies;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::StopRequest;
use crate::runtime::resource::{DATABASE, Outage, Resource};
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::shared::Shared;
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;
use crate::service::state::ServiceState;
use crate::sync::{Mutex, RwLock};

/// How long the check may take whether what a service needs is down.
const NEED_CHECK: Duration = Duration::from_secs(10);

/// The types of the services, by name, with the number of services of each.
type Types = BTreeMap<&'static str, Vec<(&'static ServiceDescriptor, usize)>>;

pub(crate) struct Services {
    pub(crate) shared: Arc<Shared>,
    sources: RwLock<Arc<Sources>>,
    /// What services use and may be down.
    pub(crate) resources: Vec<Arc<dyn Resource>>,
    list: RwLock<BTreeSet<ById>>,
    /// The names that stand for several services that `instances` has made: each with the ids that were registered for
    /// them.
    groups: RwLock<BTreeMap<String, BTreeSet<String>>>,
    types: Mutex<Types>,
    /// The services that belong to the instance of another one, by the id of that one.
    children: Mutex<BTreeMap<Arc<str>, Vec<Arc<RegisteredService>>>>,
    /// The services that were removed, until a companion takes them. `None`: no companion does.
    removed: Mutex<Option<Vec<Arc<RegisteredService>>>>,
}

/// The dependencies that are not ready.
pub(crate) struct NotReady {
    pub(crate) ids: Vec<Arc<str>>,
    /// None of them is starting, so a start does not wait for them.
    pub(crate) none_starting: bool,
}

/// What an id stands for already, so that no service can have it.
pub(crate) enum IdConflict {
    /// This service has it.
    Taken(Arc<RegisteredService>),
    /// It stands for all services of a group, such as this one.
    Group(Arc<RegisteredService>),
    /// The id of this service is the name of another type.
    TypeName(Arc<RegisteredService>, &'static ServiceDescriptor),
}

/// Resources, and the services that wait for them.
impl Services {
    /// Returns the resources from whose outage this failure may come.
    pub(crate) fn suspects(&self, service: &ServiceInner, kind: FailureKind, error: &Error) -> Vec<Arc<dyn Resource>> {
        let suspected = |resource: &&Arc<dyn Resource>| {
            let needs = service.needs(resource.name());
            if needs {
                resource.is_suspected();
            }
            resource.suspects(service, kind, error) || needs
        };
        self.resources.iter().filter(suspected).cloned().collect()
    }

    /// Returns the outage that concerns this service.
    pub(crate) fn outage(&self, service: &ServiceInner) -> Option<Outage> {
        self.concerning(service).find_map(|resource| resource.outage())
    }

    /// Whether the database, if this service uses it, was down at `at` or later. Probes do not count.
    pub(crate) fn database_was_down_since(&self, at: Instant, service: &ServiceInner) -> bool {
        let mut databases = self.concerning(service).filter(|resource| &**resource.name() == DATABASE);
        databases.any(|resource| resource.was_down_since(at))
    }

    /// Whether a resource that this service names in `needs` is known to be down.
    pub(crate) fn need_is_down(&self, service: &ServiceInner) -> bool {
        self.needed(service).any(|resource| resource.outage().is_some())
    }

    /// Whether a resource that this service names in `needs` was down at `began` or later. If that is not known, they
    /// are checked soon; with `certain`, the answer waits for the check. A check that has no result in time, or before
    /// a stop of the service, counts as an outage.
    pub(crate) async fn need_was_down_since(&self, began: Instant, service: &ServiceInner, certain: bool) -> bool {
        if self.needed(service).any(|resource| resource.was_down_since(began)) {
            return true;
        }
        if !certain {
            self.needed(service).for_each(|resource| resource.is_suspected());
            return false;
        }
        let check = async {
            for resource in self.needed(service) {
                if resource.confirm(began).await {
                    return true;
                }
            }
            false
        };
        let check = tokio::time::timeout(NEED_CHECK, service.unless_stopping(check));
        matches!(check.await, Err(_) | Ok(None | Some(true)))
    }

    fn needed<'a>(&'a self, service: &'a ServiceInner) -> impl Iterator<Item = &'a Arc<dyn Resource>> {
        self.resources.iter().filter(|resource| service.needs(resource.name()))
    }

    /// The resources that this service uses or needs.
    fn concerning<'a>(&'a self, service: &'a ServiceInner) -> impl Iterator<Item = &'a Arc<dyn Resource>> {
        self.resources.iter().filter(|resource| resource.is_used_by(service) || service.needs(resource.name()))
    }

    /// A resource is available again: services that wait for it retry now, and those that left work continue.
    pub(crate) fn end_outage(&self, resource: &str) {
        for service in self.all() {
            service.inner.end_outage(resource);
        }
    }
}

impl Services {
    pub(crate) fn new(shared: Arc<Shared>, sources: Sources, resources: Vec<Arc<dyn Resource>>) -> Self {
        Self {
            shared,
            sources: RwLock::new(Arc::new(sources)),
            resources,
            list: RwLock::default(),
            groups: RwLock::default(),
            types: Mutex::default(),
            children: Mutex::default(),
            removed: Mutex::default(),
        }
    }

    /// Returns the services that were removed since the last call. The first call returns none.
    pub(crate) fn take_removed(&self) -> Vec<Arc<RegisteredService>> {
        self.removed.lock().replace(Vec::new()).unwrap_or_default()
    }

    /// From now on removed services are not kept.
    pub(crate) fn forget_removed(&self) {
        // Their `Drop` is the application's code.
        let removed = self.removed.lock().take();
        drop(removed);
    }

    /// From now on each service keeps its last runs.
    pub(crate) fn keep_runs(&self) {
        // A service that begins later reads this.
        self.shared.keeps_runs.store(true, AtomicOrdering::SeqCst);
        for service in self.all() {
            service.inner.lock().history.get_or_insert_default();
        }
    }

    /// From now on each service also keeps the duration of each run, until it is taken.
    pub(crate) fn keep_durations(&self) {
        self.shared.keeps_durations.store(true, AtomicOrdering::SeqCst);
        self.keep_runs();
        for service in self.all() {
            service.inner.lock().history.get_or_insert_default().keep_durations();
        }
    }

    /// Returns the configuration of all services, as it was read last.
    pub(crate) fn sources(&self) -> Arc<Sources> {
        self.sources.read().clone()
    }

    pub(crate) fn set_sources(&self, sources: Arc<Sources>) {
        *self.sources.write() = sources;
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<RegisteredService>> {
        self.list.read().get(id).map(|known| known.0.clone())
    }

    /// Returns the service with this id; else the services of which `instances` has made several, by their common name.
    pub(crate) fn named(&self, name: &str) -> Vec<Arc<RegisteredService>> {
        let list = self.list.read();
        match list.get(name) {
            Some(ById(service)) => vec![service.clone()],
            None => self.group(&list, name),
        }
    }

    #[expect(clippy::mutable_key_type, reason = "the id, which orders the services, never changes")]
    fn group(&self, list: &BTreeSet<ById>, name: &str) -> Vec<Arc<RegisteredService>> {
        let groups = self.groups.read();
        let mut found = Vec::new();
        for registered in groups.get(name).into_iter().flatten() {
            let prefix = format!("{registered}_");
            let from: (Bound<&str>, Bound<&str>) = (Bound::Included(&prefix), Bound::Unbounded);
            let numbered = list.range::<str, _>(from).map(|ById(service)| service);
            let numbered = numbered.take_while(|service| service.id().starts_with(&prefix));
            found.extend(numbered.filter(|service| service.group_names()[0] == Some(registered)).cloned());
        }
        found
    }

    /// Returns all services, sorted by id.
    pub(crate) fn all(&self) -> Vec<Arc<RegisteredService>> {
        self.list.read().iter().map(|known| known.0.clone()).collect()
    }

    /// Whether any service runs.
    pub(crate) fn any_runs(&self) -> bool {
        self.all().iter().any(|service| service.inner.lock().status.is_running())
    }

    /// Adds a service.
    ///
    /// # Errors
    /// Its id cannot be used: that of `refuse`, which has to refuse one that is taken. That of `check`, called with all
    /// others if the service has dependencies. Its parent has no instance that it could belong to.
    pub(crate) fn insert(
        &self,
        service: Arc<RegisteredService>,
        check: impl FnOnce(&[Arc<RegisteredService>]) -> Result<()>,
        refuse: impl FnOnce(IdConflict) -> Result<()>,
    ) -> Result<()> {
        let mut list = self.list.write();
        if let Some(conflict) = self.conflict(&list, &service) {
            refuse(conflict)?;
        }
        // The list of all services is only needed for a service that has dependencies.
        if !service.inner.lock().requests.options.depends_on.is_empty() {
            check(&list.iter().map(|known| known.0.clone()).collect::<Vec<_>>())?;
        }
        if let Some(parent) = service.parent() {
            self.add_child(&parent, &service)?;
        }
        self.count_type(service.descriptor);
        list.insert(ById(service.clone()));
        // Under the lock, so that the events have the order of the changes, also if the id is registered again.
        service.inner.emit(|| ServiceEventKind::Registered);
        Ok(())
    }

    #[expect(clippy::mutable_key_type, reason = "the id, which orders the services, never changes")]
    fn conflict(&self, list: &BTreeSet<ById>, service: &Arc<RegisteredService>) -> Option<IdConflict> {
        if let Some(ById(other)) = list.get(&**service.id()) {
            return Some(IdConflict::Taken(other.clone()));
        }
        if let Some(first) = self.group(list, service.id()).into_iter().next() {
            return Some(IdConflict::Group(first));
        }
        let types = self.types.lock();
        let differs = |other: &'static ServiceDescriptor| !other.is_same(service.descriptor);
        let named = |name: &str| types.get(name).into_iter().flatten().map(|(known, _)| *known);
        if let Some(other) = named(service.id()).find(|other| differs(other)) {
            return Some(IdConflict::TypeName(service.clone(), other));
        }
        // The first service of a type; for the others, this was checked then.
        if named(service.descriptor.id).any(|known| !differs(known)) {
            return None;
        }
        let ById(other) = list.get(service.descriptor.id).filter(|ById(other)| differs(other.descriptor))?;
        Some(IdConflict::TypeName(other.clone(), service.descriptor))
    }

    /// Adds services that have been checked together.
    pub(crate) fn extend(&self, services: Vec<Arc<RegisteredService>>) {
        services.iter().for_each(|service| self.count_type(service.descriptor));
        {
            let mut groups = self.groups.write();
            for service in &services {
                let [Some(registered), type_name] = service.group_names() else { continue };
                for name in [Some(registered), type_name].into_iter().flatten() {
                    groups.entry(name.to_owned()).or_default().insert(registered.to_owned());
                }
            }
        }
        self.list.write().extend(services.into_iter().map(ById));
    }

    /// Removes this service if `may_remove` returns `true`; nothing is registered while that is called. Returns its
    /// answer, or `None` if the service is not registered.
    pub(crate) fn remove(&self, service: &Arc<RegisteredService>, may_remove: impl FnOnce() -> bool) -> Option<bool> {
        let mut list = self.list.write();
        // The id may have been registered again.
        let found = list.get(&**service.id()).is_some_and(|ById(known)| Arc::ptr_eq(known, service));
        if !found {
            return None;
        }
        let removed = may_remove();
        if removed {
            list.remove(&**service.id());
            service.inner.emit(|| ServiceEventKind::Unregistered);
            if let Some(removed) = &mut *self.removed.lock() {
                removed.push(service.clone());
            }
            if let Some(parent) = service.parent() {
                self.remove_child(&parent, service);
            }
            if let Entry::Occupied(mut named) = self.types.lock().entry(service.descriptor.id) {
                if let Some((_, services)) =
                    named.get_mut().iter_mut().find(|(known, _)| known.is_same(service.descriptor))
                {
                    *services -= 1;
                }
                named.get_mut().retain(|(_, services)| *services > 0);
                if named.get().is_empty() {
                    named.remove();
                }
            }
        }
        Some(removed)
    }

    /// Wakes every service that has this topic in `wake_on`.
    pub(crate) fn wake(&self, topic: &str) {
        for ById(service) in self.list.read().iter() {
            let listens = service.inner.lock().requests.options.wake_on.iter().any(|known| known == topic);
            if listens {
                service.inner.notify();
            }
        }
    }

    /// Wakes every service that has topics: any of them may have been notified.
    pub(crate) fn wake_all(&self) {
        for ById(service) in self.list.read().iter() {
            let listens = !service.inner.lock().requests.options.wake_on.is_empty();
            if listens {
                service.inner.wake_in_case();
            }
        }
    }

    /// Stops a service, waits for its end and removes it.
    pub(crate) async fn unregister(&self, service: &Arc<RegisteredService>) {
        let inner = &service.inner;
        loop {
            inner.stop(StopRequest::default()).await;
            let may_remove = || {
                let mut state = inner.lock();
                // It may have been started again in the meantime.
                let removable = !state.status.is_running();
                state.requests.unregistered |= removable;
                removable
            };
            match self.remove(service, may_remove) {
                Some(true) => break,
                Some(false) => {}
                None => return,
            }
        }
        inner.notify_waiters(&mut inner.lock());
    }

    // ── parents and children ─────────────────────────────────────────────────────────────────────────────────────────

    fn add_child(&self, parent: &RegisteredService, child: &Arc<RegisteredService>) -> Result<()> {
        // The loop of the parent takes the same lock before it ends the children of its instance.
        let state = parent.inner.lock();
        let why = match state.state() {
            _ if !state.serves_requests() => Some(state.why_down()),
            ServiceState::Standby => Some("another replica runs it"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(Error::msg(format!(
                "service `{}` ({}) cannot belong to an instance of its parent `{}`: {why}",
                child.id(),
                child.place,
                parent.id(),
            )));
        }
        self.children.lock().entry(parent.id().clone()).or_default().push(child.clone());
        Ok(())
    }

    fn remove_child(&self, parent: &RegisteredService, child: &Arc<RegisteredService>) {
        let mut all = self.children.lock();
        if let Some(children) = all.get_mut(parent.id()) {
            children.retain(|known| !Arc::ptr_eq(known, child));
            if children.is_empty() {
                all.remove(parent.id());
            }
        }
    }

    /// Stops and unregisters all services that belong to the instance of this one, which ends.
    pub(crate) async fn end_children(&self, parent: &RegisteredService) {
        // Others may be registered in the meantime.
        while let Some(children) = self.children_of(parent.id()) {
            for step in dependencies::stop_tiers(children).into_iter().flatten() {
                let stop =
                    parent.inner.lock().requests.stop.as_ref().map(|stop| stop.of_children()).unwrap_or_default();
                for child in &step {
                    child.inner.request_stop(stop);
                }
                for child in &step {
                    self.unregister(child).await;
                }
            }
        }
    }

    /// Returns the services that belong to the instance of this one; `None` if there are none.
    pub(crate) fn children_of(&self, id: &str) -> Option<Vec<Arc<RegisteredService>>> {
        self.children.lock().get(id).cloned()
    }

    /// Returns those of these services that are not ready. A name that stands for no service counts as the id of one.
    pub(crate) fn not_ready(&self, names: &[String]) -> NotReady {
        let mut not_ready = NotReady { ids: Vec::new(), none_starting: true };
        for name in names {
            let found = self.named(name);
            if found.is_empty() {
                not_ready.ids.push(Arc::from(name.as_str()));
            }
            for service in found {
                let state = service.inner.lock();
                let is_up =
                    matches!(state.state(), ServiceState::Running | ServiceState::Paused | ServiceState::Standby);
                // A single run ends the service again.
                if !is_up || !state.status.is_ready() || state.status.once {
                    let starting = state.state() == ServiceState::Starting && !state.status.is_start_resolved();
                    not_ready.none_starting &= !starting;
                    not_ready.ids.push(service.id().clone());
                }
            }
        }
        not_ready
    }

    fn count_type(&self, descriptor: &'static ServiceDescriptor) {
        let mut types = self.types.lock();
        let named = types.entry(descriptor.id).or_default();
        match named.iter_mut().find(|(known, _)| known.is_same(descriptor)) {
            Some((_, services)) => *services += 1,
            None => named.push((descriptor, 1)),
        }
    }
}

/// A service in the list, ordered and found by its id.
struct ById(Arc<RegisteredService>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id()
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id().cmp(other.0.id())
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}
