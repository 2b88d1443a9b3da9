//! What features add to the runtime: [`Extension`] for the loop of every service, [`VirtualTime`] for tests. The builder
//! installs them; the runtime does not know who implements them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::service::error::{Error, Result};
use crate::service::failure::FailureKind;

/// An outage of what an extension provides, in words.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// What is away and since when: "the database `…` has been away for 5 s".
    pub(crate) what: String,
    /// The cause.
    pub(crate) why: String,
}

/// What a feature adds to the loop of every service. Each hook does nothing by default.
///
/// Futures are dropped where a limit of the loop ends them.
pub(crate) trait Extension: fmt::Debug + Send + Sync {
    /// Whether cron fires that ended well are remembered across restarts of the process.
    fn remembers_fires(&self) -> bool {
        false
    }

    /// A service has been registered.
    fn registered(&self, _services: &Arc<Services>, _service: &ServiceInner) {}

    /// Before all services start.
    ///
    /// # Errors
    /// The extension can never work; then nothing is started.
    fn before_all<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Before one service starts.
    fn before_one<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Starts the extension's own tasks on this runtime, where they do not run already.
    fn keep_watching(&self, _services: &Arc<Services>, _runtime: &Handle) {}

    /// Does now what the extension's tasks do from time to time: for virtual time, where they do not run.
    #[allow(dead_code, reason = "for virtual time")]
    fn refresh<'a>(&'a self, _services: &'a Arc<Services>) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether a commit of the service is in flight. User code is not cancelled meanwhile.
    fn commit_in_progress(&self, _service: &ServiceInner) -> bool {
        false
    }

    /// Whether the run that just ended left something to settle.
    fn has_unsettled(&self, _service: &ServiceInner) -> bool {
        false
    }

    /// Settles what the run left open. `error` says how the run failed.
    fn settle<'a>(&'a self, _service: &'a ServiceInner, _error: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The last cron fire of the service that ended well; `now` at its very first start.
    fn last_fire<'a>(&'a self, _service: &'a ServiceInner, now: SystemTime) -> BoxFuture<'a, Result<SystemTime>> {
        Box::pin(std::future::ready(Ok(now)))
    }

    /// Records a fire whose run, which began at `started`, ended well.
    fn record_fire<'a>(
        &'a self,
        _service: &'a ServiceInner,
        _fire: SystemTime,
        _started: Option<SystemTime>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether a failure may come from an outage. Called for every failure; an outage is looked for at once.
    fn suspects_outage(&self, _service: &ServiceInner, _kind: FailureKind, _error: &Error) -> bool {
        false
    }

    /// Whether there is, or was at `began` or later, an outage; looks where that is not known.
    fn confirm_outage<'a>(&'a self, _services: &'a Arc<Services>, _began: Instant) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Whether there is, or was at `at` or later, an outage, as far as is known.
    fn was_down_since(&self, _at: Instant) -> bool {
        false
    }

    /// Whether an outage has ended at `at` or later, and none is known now.
    fn recovered_since(&self, _at: Instant) -> bool {
        false
    }

    /// Whether there is an outage, as far as is known.
    fn is_down(&self) -> bool {
        false
    }

    /// The outage, where the service depends on what is away.
    fn outage(&self, _service: &ServiceInner) -> Option<Outage> {
        None
    }
}

/// A registry without extensions.
#[derive(Debug)]
pub(crate) struct NoExtension;

impl Extension for NoExtension {}

/// Time that moves only when something moves it.
pub(crate) trait VirtualTime: fmt::Debug + Send + Sync {
    /// Moves time, step by step, for as long as it is polled. It never ends.
    fn mover(&self, services: Arc<Services>, extension: Arc<dyn Extension>) -> BoxFuture<'static, ()>;
}
