//! [`Register`]: registering a service while the registry runs.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use crate::config::SettingValue;
use crate::config::options::ServiceOptions;
use crate::registry::checks::{check_resolved, name_clash};
use crate::registry::handle::ServiceHandle;
use crate::registry::instances;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::dependencies;
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::lifecycle::{IntoService, Service};
use crate::runtime::registration::{RegisteredService, Registration};
use crate::runtime::requests::StopRequest;
use crate::runtime::services::IdConflict;
use crate::service::error::{Error, Result};
use crate::suggest;

/// A registration in progress: await it, or call [`start`](Self::start). Before that it does nothing.
///
/// ```
/// use std::time::Duration;
///
/// use service_core::prelude::*;
///
/// #[derive(Default)]
/// struct Poller;
///
/// #[service(interval = 60, discover = false)]
/// impl Poller {
///     async fn update(&mut self) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let services = ServiceRegistry::builder().without_discovered().build().await?;
/// let options = ServiceOptions::new().interval(Duration::from_secs(5));
/// let poller = services.register_of::<Poller>("fast_poller").options(options).start().await?;
/// poller.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is registered before it is awaited or started"]
pub struct Register {
    registry: ServiceRegistry,
    registration: Result<Registration>,
}

impl Register {
    /// Sets options of this service. They override `[defaults]` and the attribute; the service's section in
    /// `services.toml`, and every layer above that, overrides them.
    pub fn options(mut self, options: ServiceOptions) -> Self {
        if let Ok(registration) = &mut self.registration {
            registration.add_options(options);
        }
        self
    }

    /// Sets one of the service's own settings, in the same layer as [`options`](Self::options). A dot separates nested
    /// keys: `"smtp.host"`.
    #[track_caller]
    pub fn setting(self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.options(ServiceOptions::new().setting(key, value))
    }

    /// Adds a label, which every span and log line of the service has, and its health. A key has only a-z and `_`; a
    /// service has at most 8 labels. A later label of the same key replaces the earlier one.
    ///
    /// # Errors
    /// When awaited: the key is malformed, or there are too many labels.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.registration = self.registration.and_then(|mut registration| {
            let added = registration.labels.set(key.into(), value.into());
            let (id, place) = (&registration.id, registration.place);
            added.map_err(|wrong| Error::msg(format!("service `{id}` ({place}): {wrong}")))?;
            Ok(registration)
        });
        self
    }

    /// Makes the service belong to the current instance of another one: when that instance ends, for whatever reason,
    /// this service is stopped and unregistered before the instance's `cleanup`. So a service that manages others
    /// leaves none behind.
    ///
    /// A stop of the parent first waits for its current run, then stops its children (each within its `drain_timeout`).
    /// A shutdown requests both stops at the same time.
    ///
    /// # Errors
    /// When awaited: the parent belongs to another registry, or it has no instance that continues: it was never
    /// started, is stopping, or has ended.
    pub fn parent(mut self, parent: &ServiceHandle) -> Self {
        let same = Arc::ptr_eq(&parent.registry.inner, &self.registry.inner);
        self.registration = self.registration.and_then(|registration| {
            if same {
                return Ok(Registration { parent: Some(parent.service.clone()), ..registration });
            }
            let Registration { id, place, .. } = registration;
            Err(Error::msg(format!(
                "service `{id}` ({place}): its parent `{}` is a service of another registry",
                parent.id()
            )))
        });
        self
    }

    /// Makes the failures of this service leave the status of the registry as it is. Its own status shows them.
    pub fn optional(mut self) -> Self {
        self.registration = self.registration.map(|registration| Registration { optional: true, ..registration });
        self
    }

    /// Registers the service and starts it. Waits as [`ServiceHandle::start`] does. If the future is dropped after its
    /// first poll, the service stays registered, and may have been started.
    ///
    /// # Errors
    /// The service cannot be registered; or it cannot be started, as for [`ServiceHandle::start`]. In the second case
    /// it stays registered.
    pub async fn start(self) -> Result<ServiceHandle> {
        let handle = self.await?;
        handle.start().await?;
        Ok(handle)
    }
}

impl IntoFuture for Register {
    type Output = Result<ServiceHandle>;
    type IntoFuture = Registering;

    fn into_future(self) -> Registering {
        Registering(Some(self))
    }
}

/// The future that registers a service. It is ready at its first poll.
#[derive(Debug)]
#[must_use = "nothing is registered before it is awaited"]
pub struct Registering(Option<Register>);

impl Future for Registering {
    type Output = Result<ServiceHandle>;

    fn poll(mut self: Pin<&mut Self>, _task: &mut Task<'_>) -> Poll<Self::Output> {
        match self.0.take() {
            Some(register) => {
                Poll::Ready(register.registration.and_then(|registration| register.registry.add(registration)))
            }
            None => Poll::Pending,
        }
    }
}

impl ServiceRegistry {
    /// Registers a ready-made instance without starting it. The instance cannot be rebuilt: when it panics, the service
    /// is `Failed`.
    ///
    /// # Errors
    /// When awaited: the id is taken or malformed, the options are wrong (`restart = "on_failure"` is, for a ready-made
    /// instance), a dependency is unknown, or the service depends on itself.
    #[track_caller]
    pub fn register<S: Service>(&self, id: impl AsRef<str>, service: S) -> Register {
        self.prepare(Ok(Registration::ready_made(id.as_ref(), service)))
    }

    /// Registers a closure that builds instances, without starting the service: `|| S`, `|| Result<S, E>`, or
    /// `async |cx: &Context| …` with the same results. Write the type of `cx`. The captures of an async closure are
    /// `Clone`, and are cloned for each instance.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    #[track_caller]
    pub fn register_fn<Form, F>(&self, id: impl AsRef<str>, build: F) -> Register
    where
        F: InstanceFn<Form, Out: IntoService>,
    {
        self.prepare(Ok(Registration::closure(id.as_ref(), build)))
    }

    /// Registers a type that is built by its `configure`, or by `Default`, without starting the service.
    ///
    /// # Errors
    /// As for [`register`](Self::register); or the type has neither `configure` nor `Default`.
    #[track_caller]
    pub fn register_of<S: Service>(&self, id: impl AsRef<str>) -> Register {
        self.prepare(Registration::of::<S>(id.as_ref()))
    }

    fn prepare(&self, registration: Result<Registration>) -> Register {
        Register { registry: self.clone(), registration }
    }

    pub(crate) fn add(&self, registration: Registration) -> Result<ServiceHandle> {
        self.add_unless(registration, |_| true)
    }

    /// Registers a service, unless its id cannot be used for a reason that `refuses`.
    pub(crate) fn add_unless(
        &self,
        registration: Registration,
        refuses: impl FnOnce(&IdConflict) -> bool,
    ) -> Result<ServiceHandle> {
        registration.check_id()?;
        if registration.options.as_ref().is_some_and(|options| options.sets(instances::KEY)) {
            let Registration { id, place, .. } = &registration;
            return Err(Error::msg(format!(
                "service `{id}` ({place}): `instances` has no effect while the registry runs; register each service under an id of \
                 its own"
            )));
        }
        let services = &self.inner.services;
        let sources = services.sources();
        let registration = Registration { while_running: true, ..registration };
        let service = Arc::new(RegisteredService::new(registration, &services.shared, &sources)?);
        let resolved = service.inner.lock().requests.resolved.clone();
        check_resolved(service.id(), &resolved, &*self.inner.extension, &services.resources)?;
        // No other service depends on a new one, so the only possible cycle is a service that depends on itself.
        let check = |others: &[Arc<RegisteredService>]| {
            let problems = dependencies::check(std::slice::from_ref(&service), others, &[]);
            if problems.is_empty() { Ok(()) } else { Err(Error::msg(problems.join("; "))) }
        };
        let refuse = |conflict| if refuses(&conflict) { Err(refusal(&service, conflict)) } else { Ok(()) };
        services.insert(service.clone(), check, refuse)?;
        if !Arc::ptr_eq(&sources, &services.sources()) {
            self.resolve_again(&service);
        }
        self.inner.extension.registered(services, &service.inner);
        Ok(self.handle(service))
    }

    /// Stops a service, waits until it is cleaned up, and removes it. If the future is dropped after its first poll,
    /// the stop continues, but the service stays registered. Called from within the service's own run, it returns at
    /// once.
    ///
    /// # Errors
    /// There is no service with this id.
    pub async fn unregister(&self, id: &str) -> Result<()> {
        let handle = self.get(id).ok_or_else(|| unknown(id, &self.list()))?;
        handle.service.inner.request_stop(StopRequest::default());
        let registry = self.clone();
        let (inside, service) = (handle.service.inner.is_current(), handle.service);
        self.run_outside(inside, async move { registry.inner.services.unregister(&service).await }).await;
        Ok(())
    }
}

/// The error of a service whose id cannot be used.
fn refusal(service: &RegisteredService, conflict: IdConflict) -> Error {
    let (id, place) = (service.id(), service.place);
    Error::msg(match conflict {
        IdConflict::Taken(other) => {
            let other = other.place;
            format!(
                "service id `{id}` is taken: registered at {other} and again at {place}; give one of them another id"
            )
        }
        IdConflict::Group(first) => format!(
            "service id `{id}` ({place}) is taken: it stands for all of the services that `instances` has made at {}, such as `{}`; \
             choose another id",
            first.place,
            first.id()
        ),
        IdConflict::TypeName(named, other) => name_clash(named.id(), named.descriptor, named.place, other),
    })
}

pub(super) fn unknown(id: &str, known: &[String]) -> Error {
    let hint = suggest::hint(id, known.iter().map(String::as_str));
    Error::msg(format!("there is no service `{id}`{hint}"))
}
