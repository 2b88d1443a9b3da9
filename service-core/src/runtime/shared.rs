//! [`Shared`]: the data that all services of one registry share, except for the list of services.

use std::any::{Any, TypeId, type_name};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::runtime::clock::Clock;
use crate::runtime::events::Events;
use crate::runtime::lease::LeaseClock;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// Shared by all services of one registry.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    /// How often the code of each service was polled. Only on virtual time.
    pub(crate) polls: Option<Polls>,
    /// Notified when any service changes its state.
    pub(crate) changed: Notify,
    pub(crate) requester_id: String,
    /// Makes jitter repeatable in tests.
    pub(crate) seed: Option<u64>,
    /// The number of threads that run blocking code of services.
    pub(crate) blocking: AtomicUsize,
    /// The threads in blocking code for which a paused clock stands still.
    pub(crate) holds: Arc<Holds>,
    /// The runtime on which the services were started last.
    pub(crate) runtime: Mutex<Option<Handle>>,
    pub(crate) states: SharedStates,
    /// Each service keeps its last runs.
    pub(crate) keeps_runs: AtomicBool,
    /// It also keeps their durations until the feature `metrics` takes them.
    pub(crate) keeps_durations: AtomicBool,
    /// The clock of leases, if a feature grants them.
    pub(crate) lease_clock: OnceLock<Arc<dyn LeaseClock>>,
    /// The most runs at the same time, if they are limited.
    pub(crate) turns: Option<Arc<Semaphore>>,
}

/// Counts the polls of the code of each service.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    of_each: Mutex<BTreeMap<Arc<str>, u64>>,
    all: AtomicU64,
}

/// How many polls it counts as if tokio interrupts code after 128 operations.
const INTERRUPTED: u64 = 25;

impl Polls {
    /// Counts a poll that has just ended.
    pub(crate) fn count_one(&self, id: &Arc<str>) {
        let is_interrupted = !tokio::task::coop::has_budget_remaining();
        self.count(id, if is_interrupted { INTERRUPTED } else { 1 });
    }

    pub(crate) fn count(&self, id: &Arc<str>, polls: u64) {
        *self.of_each.lock().entry(id.clone()).or_default() += polls;
        self.all.fetch_add(polls, Ordering::SeqCst);
    }

    pub(crate) fn of(&self, id: &str) -> u64 {
        self.of_each.lock().get(id).copied().unwrap_or_default()
    }

    /// Returns the number of polls of all services.
    pub(crate) fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }
}

/// The services whose blocking code makes a paused clock stand still, one entry for each thread, the longest first.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<Vec<Arc<str>>>);

impl Holds {
    pub(crate) fn add(&self, id: Arc<str>) {
        self.0.lock().push(id);
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut ids = self.0.lock();
        if let Some(found) = ids.iter().position(|known| **known == *id) {
            ids.remove(found);
        }
    }

    /// Returns the service that has made the clock stand still for longest.
    pub(crate) fn longest(&self) -> Option<Arc<str>> {
        self.0.lock().first().cloned()
    }
}

impl Shared {
    pub(crate) fn rng(&self, id: &str) -> fastrand::Rng {
        match self.seed {
            None => fastrand::Rng::new(),
            Some(seed) => {
                let mut hasher = DefaultHasher::new();
                id.hash(&mut hasher);
                fastrand::Rng::with_seed(seed ^ hasher.finish())
            }
        }
    }

    /// A service is started on this runtime.
    pub(crate) fn set_runtime(&self, runtime: &Handle) {
        *self.runtime.lock() = Some(runtime.clone());
    }

    /// Returns the runtime of the calling thread; else that of the services. A thread of a service's own has none.
    pub(crate) fn any_runtime(&self) -> Option<Handle> {
        Handle::try_current().ok().or_else(|| self.runtime.lock().clone())
    }

    /// Counts this thread among those in blocking code, until the guard is dropped.
    pub(crate) fn enter_blocking(self: &Arc<Self>) -> InBlocking {
        self.blocking.fetch_add(1, Ordering::SeqCst);
        InBlocking(self.clone())
    }
}

/// The values of the builder's `state`, one of each type.
#[derive(Default)]
pub(crate) struct SharedStates(BTreeMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl SharedStates {
    /// Adds a value. It replaces an earlier value of the same type.
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(value)));
    }

    /// Returns the value of type `T`.
    pub(crate) fn get<T: Send + Sync + 'static>(&self, service: &str) -> Result<&T> {
        let found = self.0.get(&TypeId::of::<T>()).and_then(|(_, value)| value.downcast_ref());
        found.ok_or_else(|| {
            let mut present: Vec<&str> = self.0.values().map(|(name, _)| *name).collect();
            present.sort_unstable();
            let present = match present.is_empty() {
                true => "it has no shared values".to_owned(),
                false => format!("it has: {}", present.join(", ")),
            };
            Error::fatal(format!(
                "service `{service}` needs a shared value of type `{}`, which the registry does not have ({present}); \
                 add one to the builder with `.state(…)`",
                type_name::<T>()
            ))
        })
    }
}

/// Counts a thread in blocking code, until it is dropped.
pub(crate) struct InBlocking(Arc<Shared>);

impl Drop for InBlocking {
    fn drop(&mut self) {
        self.0.blocking.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("requester_id", &self.requester_id).finish_non_exhaustive()
    }
}
