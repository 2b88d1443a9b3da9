//! All registries of the process.
//!
//! Before a forced exit, and before systemd is notified of a stop, the services of the other registries are checked.

use std::sync::{Arc, Weak};

use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::sync::Mutex;

static ALL: Mutex<Vec<Weak<RegistryInner>>> = Mutex::new(Vec::new());

/// Adds a registry that was built.
pub(super) fn add(registry: &Arc<RegistryInner>) {
    let mut all = ALL.lock();
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(registry));
}

/// Returns the registries that were not dropped.
pub(super) fn registries() -> Vec<ServiceRegistry> {
    ALL.lock().iter().filter_map(Weak::upgrade).map(|inner| ServiceRegistry { inner }).collect()
}

/// Whether services of another registry than `this` run, of those that `counts`.
pub(super) fn another_runs(this: &ServiceRegistry, counts: impl Fn(&ServiceRegistry) -> bool) -> bool {
    let mut others = registries().into_iter().filter(|other| !Arc::ptr_eq(&other.inner, &this.inner));
    others.any(|other| counts(&other) && other.inner.services.any_runs())
}
