//! [`ServiceRegistry`]: the services of a program, by id.
//!
//! The tricky part is order: services start after ([`starting`]), and stop before ([`stopping`]), those they depend on;
//! within a tier all go side by side. A running service holds its registry, so dropping every handle stops nothing.

pub(crate) mod builder;
mod context;
pub(crate) mod dependencies;
pub(crate) mod expect;
pub(crate) mod handle;
mod home;
pub(crate) mod register;
pub(crate) mod run;
mod session;
pub(crate) mod signals;
mod starting;
mod stopping;

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;

use crate::observe::health::{self, RegistryHealth};
use crate::registry::handle::ServiceHandle;
use crate::registry::home::Home;
use crate::registry::session::Session;
use crate::runtime::events::{ServiceEvent, ServiceEventKind};
use crate::runtime::extension::{Extension, VirtualTime};
use crate::runtime::lifecycle::{Discovered, ServiceDescriptor};
use crate::runtime::registration::{RegisteredService, Registration};
use crate::runtime::requests::{PausedBy, StopRequest};
use crate::runtime::services::Services;
use crate::service::error::{Error, Result};

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
    pub(crate) inner: Arc<RegistryInner>,
}

pub(crate) struct RegistryInner {
    pub(crate) services: Arc<Services>,
    pub(crate) extension: Arc<dyn Extension>,
    pub(crate) virtual_time: Option<Arc<dyn VirtualTime>>,
    pub(crate) shutdown_timeout: Duration,
    /// A first `configure` that fails makes the start fail.
    strict: bool,
    home: Home,
    session: Mutex<Arc<Session>>,
}

impl ServiceRegistry {
    /// Registers every annotated service that is linked into the program, and starts those that are enabled; see
    /// [`start`](Self::start) for how long it waits.
    ///
    /// From here on SIGINT and SIGTERM start a shutdown, for whoever waits in [`until_shutdown`](Self::until_shutdown): one
    /// that comes earlier cuts the wait short and is found there. Where the program neither waits there nor calls
    /// [`shutdown`](Self::shutdown), a signal ends the process after `shutdown_timeout`, and a second one at once. As
    /// tokio's do, the handlers stay for the rest of the process, also when this runtime is gone. A program that does not
    /// want that calls [`build`](RegistryBuilder::build) and [`start`](Self::start).
    ///
    /// # Errors
    /// Wrong options, duplicate ids and dependency cycles: all of them, before anything starts. A service that cannot start
    /// is no error; its health says why.
    ///
    /// [`RegistryBuilder::build`]: crate::RegistryBuilder::build
    pub async fn start_all() -> Result<Self> {
        Self::builder().start_all().await
    }

    /// Every annotated service that is linked into the program, sorted by id. Starts nothing.
    pub fn discovered() -> Vec<&'static ServiceDescriptor> {
        let mut found: Vec<_> = inventory::iter::<Discovered>().map(|discovered| discovered.0).collect();
        found.sort_by_key(|descriptor| (descriptor.id, descriptor.file, descriptor.line));
        found
    }

    // ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The service with this id.
    pub fn get(&self, id: &str) -> Option<ServiceHandle> {
        self.inner.services.get(id).map(|service| self.handle(service))
    }

    /// The ids of all services, sorted.
    pub fn list(&self) -> Vec<String> {
        self.inner.services.all().iter().map(|service| service.id().to_string()).collect()
    }

    /// Returns a health snapshot of all services.
    pub fn health(&self) -> RegistryHealth {
        let services = self.inner.services.all();
        RegistryHealth::new(services.iter().map(|service| self.health_of(service)).collect())
    }

    pub(crate) fn health_of(&self, service: &RegisteredService) -> health::ServiceHealth {
        health::of(&service.inner, &*self.inner.extension)
    }

    /// The events of all services from now on. A subscriber that is more than 4,096 events behind loses the oldest, and a
    /// `Lagged` event says how many. Dropping the stream ends the subscription.
    pub fn subscribe(&self) -> impl Stream<Item = ServiceEvent> + Send + Unpin + use<> {
        self.inner.services.shared.events.subscribe()
    }

    pub(crate) fn handle(&self, service: Arc<RegisteredService>) -> ServiceHandle {
        ServiceHandle { service, registry: self.clone() }
    }

    // ── registering ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn add(&self, registration: Registration) -> Result<ServiceHandle> {
        registration.check_id()?;
        let services = &self.inner.services;
        let service = Arc::new(RegisteredService::new(registration, &services.shared, &services.sources)?);
        builder::check_catch_up(&service, &*self.inner.extension)?;
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
            return Err(Error::msg(builder::name_clash(named.id(), named.descriptor, named.place, other)));
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

    async fn remove(self, handle: ServiceHandle) {
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

    // ── all at once ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Pauses every service that can be paused.
    pub async fn pause_all(&self) {
        for service in self.inner.services.all() {
            // Those that cannot be paused do not run, or are paused already.
            let _ = service.inner.request_pause(PausedBy::Handle);
        }
    }

    /// Resumes every paused service.
    pub async fn resume_all(&self) {
        for service in self.inner.services.all() {
            let _ = service.inner.request_resume();
        }
    }

    fn session(&self) -> Arc<Session> {
        self.inner.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `work`, awaited by a caller outside the services. Virtual time moves meanwhile.
    pub(crate) async fn waiting<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(time) = &self.inner.virtual_time else { return work.await };
        let mut work = pin!(work);
        let mut mover = time.mover(self.inner.services.clone(), self.inner.extension.clone());
        std::future::poll_fn(|task| {
            if let Poll::Ready(done) = work.as_mut().poll(task) {
                return Poll::Ready(done);
            }
            let _: Poll<()> = mover.as_mut().poll(task);
            Poll::Pending
        })
        .await
    }

    /// `work` awaited; or, within a service's own code, where that would wait for itself, as a task of its own.
    async fn run_outside(&self, inside: bool, work: impl Future<Output = ()> + Send + 'static) {
        if inside {
            tokio::spawn(work);
        } else {
            self.waiting(work).await;
        }
    }

    /// Whether the caller is the own code of one of these services.
    fn is_inside(&self) -> bool {
        self.inner.services.all().iter().any(|service| service.inner.is_current())
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
