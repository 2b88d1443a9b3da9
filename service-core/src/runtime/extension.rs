//! The interface for features that extend the runtime: [`Extension`] for the loop of every service, [`VirtualTime`] for
//! tests. The builder installs the implementations.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;

use crate::config::{Row, Sources};
use crate::runtime::leases::Leases;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::operator_store::OperatorStore;
use crate::runtime::resource::Resource;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::schedule::CronSchedule;
use crate::service::error::{Error, Result};

/// The hooks of a feature in the loop of every service. Each hook does nothing by default.
///
/// The loop drops a future of a hook when a time limit is over.
pub(crate) trait Extension: Any + fmt::Debug + Send + Sync {
    /// Whether served cron fires are stored, so that `catch_up` is possible.
    fn remembers_fires(&self) -> bool {
        false
    }

    /// Returns what services use of the feature, and may be down.
    fn resource(&self) -> Option<Arc<dyn Resource>> {
        None
    }

    /// Keeps the extension from changing the configuration of services until the guard is dropped.
    fn hold_configuration(&self) -> BoxFuture<'_, Box<dyn Send + '_>> {
        Box::pin(std::future::ready(Box::new(()) as Box<dyn Send>))
    }

    /// Returns the rows of its layers that are in effect for a service.
    fn rows(&self, _sources: &Sources, _service: &str) -> Vec<Row> {
        Vec::new()
    }

    /// Applies its rows again, since the layers below have changed. Called while the configuration is held.
    fn apply_rows_again(&self, _services: &Services) {}

    /// A service has been registered.
    fn registered(&self, _services: &Arc<Services>, _service: &Arc<ServiceInner>) {}

    /// Called before all services start.
    ///
    /// # Errors
    /// The extension can never work; then nothing is started.
    fn before_all<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Called before one service starts.
    fn before_one<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Starts the extension's own tasks on this runtime, unless they run already.
    fn keep_watching(&self, _services: &Arc<Services>, _runtime: &Handle) {}

    /// Waits until the extension's tasks receive notifications, for a limited time. Called before services start.
    fn until_listening<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether the start of a service counts as a notification of each of its topics, because programs may have sent
    /// some before.
    fn start_notifies(&self) -> bool {
        false
    }

    /// Wakes every service that has this topic in `wake_on`.
    fn notify(&self, services: &Services, topic: &str) {
        services.wake(topic);
    }

    /// The services have ended with a shutdown: sends what other replicas do not know yet, for a limited time.
    fn send_rest(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Does at once what the extension's tasks do periodically. For virtual time, where these tasks do not run.
    fn refresh<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// When the next [`refresh`](Self::refresh) is due at the latest, because something known expires.
    fn refresh_due(&self, _services: &Services) -> Option<SystemTime> {
        None
    }

    /// Whether a commit of the service is in flight. Until it ends, user code is not cancelled.
    fn commit_in_progress(&self, _service: &ServiceInner) -> bool {
        false
    }

    /// Whether the run that just ended left rows to settle.
    fn has_unsettled(&self, _service: &ServiceInner) -> bool {
        false
    }

    /// Settles the rows that the run left open. `error` is the error of the run.
    fn settle<'a>(&'a self, _service: &'a ServiceInner, _error: Option<&'a Error>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Releases the rows that the run left open, as they were: it was no failure of theirs.
    fn abandon<'a>(&'a self, _service: &'a ServiceInner) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns the last cron fire of the service whose run succeeded; `now` at the first start of the service with this
    /// schedule.
    fn last_fire<'a>(
        &'a self,
        _service: &'a ServiceInner,
        _schedule: &'a CronSchedule,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<SystemTime>> {
        Box::pin(std::future::ready(Ok(now)))
    }

    /// Records a fire of this schedule whose run, which began at `started`, succeeded.
    fn record_fire<'a>(
        &'a self,
        _service: &'a ServiceInner,
        _schedule: &'a CronSchedule,
        _fire: SystemTime,
        _started: Option<SystemTime>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns what keeps the changes of operators.
    fn operator_store(&self) -> Option<Arc<dyn OperatorStore>> {
        None
    }

    /// Returns what decides which replica runs a service, if something does.
    fn leases(&self) -> Option<&Arc<dyn Leases>> {
        None
    }

    /// Whether an outage is known now.
    fn is_down(&self) -> bool {
        false
    }

    /// Returns why the service is degraded although its runs succeed.
    fn degradation(&self, _service: &ServiceInner) -> Option<String> {
        None
    }
}

/// A registry without extensions.
#[derive(Debug)]
pub(crate) struct NoExtension;

impl Extension for NoExtension {}

/// Virtual time: it only moves when it is moved.
pub(crate) trait VirtualTime: fmt::Debug + Send + Sync {
    /// Returns a future that lets time move while it is polled. It never ends.
    fn mover(&self, services: Arc<Services>, extension: Arc<dyn Extension>) -> BoxFuture<'static, ()>;

    /// Whether time only moves in calls that wait for services.
    fn is_held(&self) -> bool {
        true
    }
}

/// Work that takes real time, which virtual time waits for: the statements of a database.
pub(crate) trait RealWork: fmt::Debug + Send + Sync {
    fn state(&self) -> RealWorkState;

    /// Opens connections that are closed, as far as they can be opened.
    fn reopen(&self) -> BoxFuture<'static, ()>;

    /// Asks the database whether it executes a statement. `None`: it cannot be asked.
    fn executes(&self) -> BoxFuture<'static, Option<bool>>;
}

/// How much such work there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RealWorkState {
    /// The connections that do something, or may. `None`: that is not known.
    pub(crate) active: Option<u32>,
    /// The connections that are not open. Work on them begins unseen.
    pub(crate) closed: u32,
    /// The open transactions in which no statement is in flight. They may hold locks.
    pub(crate) waiting: u32,
}
