//! What a service's context gives of its registry.

use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::runtime::context::Context;

impl Context {
    /// The registry that this service belongs to.
    pub fn services(&self) -> ServiceRegistry {
        match self.registry.clone().downcast::<RegistryInner>() {
            Ok(inner) => ServiceRegistry { inner },
            Err(_) => unreachable!("a registry makes every context"),
        }
    }
}
