//! The part of [`Context`] that needs the registry.

use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::runtime::context::Context;

impl Context {
    /// Returns the registry of this service.
    pub fn services(&self) -> ServiceRegistry {
        match self.registry.clone().downcast::<RegistryInner>() {
            Ok(inner) => ServiceRegistry { inner },
            Err(_) => unreachable!("a registry makes every context"),
        }
    }

    /// Wakes every service that has this topic in `wake_on`: [`ServiceRegistry::notify`].
    pub fn notify(&self, topic: &str) {
        self.services().notify(topic);
    }
}
