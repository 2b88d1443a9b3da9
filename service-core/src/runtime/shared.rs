//! [`Hub`]: what all services of one registry share, apart from the list of them.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::runtime::clock::Clock;
use crate::runtime::driver::Drivers;
use crate::runtime::events::Events;
use crate::service::error::{Error, Result};

/// Shared by all services of one registry.
#[derive(Default)]
pub(crate) struct Hub {
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) drivers: Drivers,
    /// Told when any service changes its state.
    pub(crate) changed: Notify,
    pub(crate) requester_id: String,
    /// Makes jitter repeatable under test.
    pub(crate) seed: Option<u64>,
    /// Threads that are in blocking code of a service's.
    pub(crate) blocking: AtomicUsize,
    /// The clock moves only where a test bed moves it.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "only a test bed holds the clock"))]
    pub(crate) clock_is_held: bool,
    pub(crate) states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    #[cfg(feature = "database")]
    pub(crate) database: Option<sea_orm::DatabaseConnection>,
    #[cfg(feature = "database")]
    pub(crate) write_queue: crate::database::WriteLock,
    #[cfg(feature = "database")]
    pub(crate) presence: crate::database::Availability,
}

impl Hub {
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

    /// Counts this thread among those in blocking code, until the guard is dropped.
    pub(crate) fn enter_blocking(self: &Arc<Self>) -> InBlocking {
        self.blocking.fetch_add(1, Ordering::SeqCst);
        InBlocking(self.clone())
    }

    /// The shared value of type `T`.
    pub(crate) fn state<T: Send + Sync + 'static>(&self, service: &str) -> Result<&T> {
        let found = self.states.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref());
        found.ok_or_else(|| {
            Error::fatal(format!(
                "service `{service}` asks for shared state of type `{}`, which the registry does not have; \
                 add `.state(…)` with such a value to the builder",
                type_name::<T>()
            ))
        })
    }
}

/// A thread in blocking code.
pub(crate) struct InBlocking(Arc<Hub>);

impl Drop for InBlocking {
    fn drop(&mut self) {
        self.0.blocking.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("requester_id", &self.requester_id).finish_non_exhaustive()
    }
}
