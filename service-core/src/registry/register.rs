//! [`Register`]: registering a service while the registry runs.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use crate::config::SettingValue;
use crate::config::options::ServiceOptions;
use crate::registry::builder::{check_catch_up, name_clash};
use crate::registry::dependencies;
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::events::ServiceEventKind;
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::lifecycle::{IntoService, Service};
use crate::runtime::registration::{RegisteredService, Registration};
use crate::runtime::requests::StopRequest;
use crate::service::error::{Error, Result};
use crate::suggest::nearest;

/// A service that is to be registered. Nothing happens before it is awaited, or [`start`](Self::start)ed.
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
    /// Options of this service. They override its attribute and `[defaults]`, and its section in `services.toml` overrides
    /// them.
    pub fn options(mut self, options: ServiceOptions) -> Self {
        if let Ok(registration) = &mut self.registration {
            registration.options = Some(match registration.options.take() {
                Some(earlier) => earlier.and(options),
                None => options,
            });
        }
        self
    }

    /// One of the service's own settings, at the same layer as [`options`](Self::options). A dot leads into a table:
    /// `"smtp.host"`.
    pub fn setting(self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.options(ServiceOptions::new().setting(key, value))
    }

    /// Registers the service and starts it, and waits as [`ServiceHandle::start`] does.
    ///
    /// # Errors
    /// Those of registering it, and those of [`ServiceHandle::start`]; then it stays registered.
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

/// The future of a [`Register`]. It is ready at its first poll.
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
    /// Registers a ready-made instance, without starting it. It is never silently replaced: when it panics the service has
    /// failed.
    ///
    /// # Errors
    /// When awaited: the id is taken or does not have the form of one, the options are wrong, or a dependency is unknown or
    /// leads back here.
    #[track_caller]
    pub fn register<S: Service>(&self, id: impl AsRef<str>, service: S) -> Register {
        self.prepare(Ok(Registration::ready_made(id.as_ref(), service)))
    }

    /// Registers a closure that builds instances, without starting it: `|| S`, `|| Result<S, E>` or
    /// `async |cx: &Context| …` (the type of `cx` is written), which returns either.
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

    /// Registers a type that is built by its `configure`, or `Default`, without starting it.
    ///
    /// # Errors
    /// As for [`register`](Self::register); and the type has neither.
    #[track_caller]
    pub fn register_of<S: Service>(&self, id: impl AsRef<str>) -> Register {
        self.prepare(Registration::of::<S>(id.as_ref()))
    }

    fn prepare(&self, registration: Result<Registration>) -> Register {
        Register { registry: self.clone(), registration }
    }

    pub(crate) fn add(&self, registration: Registration) -> Result<ServiceHandle> {
        registration.check_id()?;
        let services = &self.inner.services;
        let service = Arc::new(RegisteredService::new(registration, &services.shared, &services.sources)?);
        check_catch_up(&service, &*self.inner.extension)?;
        // Nobody depends on a service that was not registered, so a cycle can only be one onto itself.
        let check = |others: &[Arc<RegisteredService>]| {
            let problems = dependencies::check(std::slice::from_ref(&service), others, &[]);
            if problems.is_empty() { Ok(()) } else { Err(Error::msg(problems.join("; "))) }
        };
        let taken = |other: &RegisteredService| {
            Error::msg(format!(
                "service id `{}` is taken: registered at {} and again at {}; give one of them another id",
                other.id(),
                other.place,
                service.place
            ))
        };
        if let Some((named, other)) = services.name_clash(&service) {
            return Err(Error::msg(name_clash(named.id(), named.descriptor, named.place, other)));
        }
        services.insert(service.clone(), check, taken)?;
        self.inner.extension.registered(services, &service.inner);
        service.inner.emit(|| ServiceEventKind::Registered);
        Ok(self.handle(service))
    }

    /// Stops a service, cleans it up and removes it. Called from within the service's own run it returns at once.
    ///
    /// # Errors
    /// There is no such service.
    pub async fn unregister(&self, id: &str) -> Result<()> {
        let handle = self.get(id).ok_or_else(|| unknown(id, &self.list()))?;
        handle.service.inner.request_stop(StopRequest::default());
        self.run_outside(handle.service.inner.is_current(), self.clone().remove(handle)).await;
        Ok(())
    }

    pub(super) async fn remove(self, handle: ServiceHandle) {
        let inner = handle.service.inner.clone();
        loop {
            handle.stop_by(StopRequest::default()).await;
            let may_go = || {
                let mut state = inner.lock();
                // It may have been started again meanwhile.
                let goes = !state.status.is_running();
                state.requests.unregistered |= goes;
                goes
            };
            match self.inner.services.remove(&handle.service, may_go) {
                Some(true) => break,
                Some(false) => {}
                None => return,
            }
        }
        inner.emit(|| ServiceEventKind::Unregistered);
        inner.notify_waiters(&mut inner.lock());
    }
}

fn unknown(id: &str, known: &[String]) -> Error {
    let hint = nearest(id, known.iter().map(String::as_str))
        .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    Error::msg(format!("there is no service `{id}`{hint}"))
}
