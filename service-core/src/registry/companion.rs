//! How a [`Companion`] is built and found: what a feature runs beside the services of a registry, such as an HTTP
//! server.
//!
//! A feature submits a [`CompanionBuilder`] to `inventory`, so that the registry knows no feature.

use std::any::Any;
use std::ffi::OsString;
use std::sync::Arc;

use crate::registry::service_registry::{Companion, Phase, ServiceRegistry};
use crate::runtime::extension::Extension;
use crate::runtime::shared::Shared;
use crate::service::error::Result;

/// Installs a feature's leases in the extension of each registry, if that extension can have some.
pub(crate) struct LeasesBuilder {
    pub(crate) install: fn(&dyn Extension, &Arc<Shared>),
}

inventory::collect!(LeasesBuilder);

/// The environment variables.
pub(crate) type Environment<'a> = &'a [(OsString, OsString)];

/// Builds a feature's companion for each registry.
pub(crate) struct CompanionBuilder {
    /// # Errors
    /// The settings can never work.
    pub(crate) build: fn(&mut CompanionSettings, Environment<'_>) -> Result<Arc<dyn Companion>>,
}

inventory::collect!(CompanionBuilder);

/// The settings of companions, one value of each type.
#[derive(Default)]
pub(crate) struct CompanionSettings(Vec<Box<dyn Any + Send>>);

impl CompanionSettings {
    /// Returns the value of a type. If there is none, it is the default.
    pub(crate) fn get<T: Default + Send + 'static>(&mut self) -> &mut T {
        let at = self.0.iter().position(|settings| settings.is::<T>()).unwrap_or_else(|| {
            self.0.push(Box::new(T::default()));
            self.0.len() - 1
        });
        let Some(settings) = self.0[at].downcast_mut() else { unreachable!("a value of this type is there") };
        settings
    }
}

impl ServiceRegistry {
    /// Returns the companion of this type.
    pub(crate) fn companion<T: Companion>(&self) -> Option<&T> {
        self.inner.companions.iter().find_map(|companion| (&**companion as &dyn Any).downcast_ref())
    }

    pub(super) async fn start_companions(&self) -> Result<()> {
        for companion in &self.inner.companions {
            companion.start(self).await?;
        }
        Ok(())
    }

    pub(super) async fn stop_companions(&self) {
        for companion in &self.inner.companions {
            companion.stop().await;
        }
    }

    /// Announces to all companions that the registry enters a phase.
    pub(super) fn announce(&self, phase: Phase) {
        self.inner.companions.iter().for_each(|companion| companion.enter(phase));
    }

    /// Announces to all companions that the configuration file is read again, until the guard is dropped. Before the
    /// end of the start and after the begin of a shutdown, nothing is announced.
    pub(super) fn announce_reload(&self) -> ReloadGuard<'_> {
        let announced = self.session().is_started() && self.session().is_open();
        if announced {
            self.announce(Phase::Reloading);
        }
        ReloadGuard { registry: self, announced }
    }
}

/// Announces the end of a reload when it is dropped.
pub(super) struct ReloadGuard<'a> {
    registry: &'a ServiceRegistry,
    announced: bool,
}

impl Drop for ReloadGuard<'_> {
    fn drop(&mut self) {
        if self.announced && self.registry.session().is_open() {
            self.registry.announce(Phase::Reloaded);
        }
    }
}
