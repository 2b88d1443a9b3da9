//! [`Probe`]: a resource that a closure of the user's checks.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tracing::info;

use crate::humanize;
use crate::log::warn;
use crate::panic::{self, Caught};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::resource::{Outage, Outages, Resource};
use crate::runtime::services::Services;
use crate::runtime::single_task::SingleTask;
use crate::service::error::{Error, Result};

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// The minimum time between two checks that failures request.
const MIN_WAIT: Duration = Duration::from_millis(500);

/// A resource that a closure checks.
pub(crate) struct Probe {
    name: Arc<str>,
    every: Duration,
    check: Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>,
    outages: Outages,
    /// When the last check began. Locked during a check, so that concurrent callers share one.
    last_check: Mutex<Option<Instant>>,
    check_requested: Notify,
    services: OnceLock<Weak<Services>>,
    /// Checks periodically.
    watching: SingleTask,
}

impl Probe {
    pub(crate) fn new<C, F, E>(name: &str, every: Duration, check: C) -> Self
    where
        C: FnOnce() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let check = Arc::new(check);
        let check = move || -> BoxFuture<'static, Result<()>> {
            let check = check.clone();
            // Cloned and called inside the future, where a panic is caught.
            Box::pin(async move { C::clone(&check)().await.map_err(Error::new) })
        };
        Self {
            name: Arc::from(name),
            every: every.max(MIN_WAIT),
            check: Box::new(check),
            outages: Outages::default(),
            last_check: Mutex::default(),
            check_requested: Notify::new(),
            services: OnceLock::new(),
            watching: SingleTask::default(),
        }
    }

    /// Sets the services whose waits the end of an outage ends.
    pub(crate) fn attach(&self, services: &Arc<Services>) {
        // Cannot fail: a probe belongs to one registry.
        let _ = self.services.set(Arc::downgrade(services));
    }

    fn services(&self) -> Option<Arc<Services>> {
        self.services.get().and_then(Weak::upgrade)
    }

    /// Checks periodically until the registry is dropped or the runtime shuts down. Does nothing if a task does so
    /// already.
    pub(crate) fn keep_watching(self: &Arc<Self>, runtime: &Handle) {
        let probe = self.clone();
        self.watching.start(runtime, || async move {
            while probe.services().is_some() {
                probe.check_after(Instant::now()).await;
                tokio::time::sleep(MIN_WAIT).await;
                let _ = tokio::time::timeout(probe.every - MIN_WAIT, probe.check_requested.notified()).await;
            }
        });
    }

    /// Checks, unless a check has begun at `asked` or later.
    async fn check_after(&self, asked: Instant) {
        let mut last_check = self.last_check.lock().await;
        if last_check.is_some_and(|began| began >= asked) {
            return;
        }
        let began = Instant::now();
        let why = match panic::catch_within(CHECK_TIMEOUT, (self.check)()).await {
            Some(Caught::Returned(Ok(()))) => None,
            Some(Caught::Returned(Err(error))) => Some(error.into_text()),
            Some(Caught::Panicked(message)) => Some(format!("it panicked: {message}")),
            None => Some(format!("no result within {} s", CHECK_TIMEOUT.as_secs())),
        };
        *last_check = Some(began);
        match why {
            Some(why) => {
                if self.outages.mark_down(why.clone()) {
                    warn!("the probe `{}` fails, services that need it wait: {why}", self.name);
                }
            }
            None => {
                if let Some(after) = self.outages.mark_up() {
                    info!("the probe `{}` succeeds again, after {}", self.name, humanize::long(after));
                    if let Some(services) = self.services() {
                        services.end_outage(&self.name);
                    }
                }
            }
        }
    }
}

impl Resource for Probe {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn confirm(&self, began: Instant) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            if !self.outages.was_down_since(began) {
                self.check_after(Instant::now()).await;
            }
            self.outages.was_down_since(began)
        })
    }

    fn is_suspected(&self) {
        self.check_requested.notify_one();
    }

    fn was_down_since(&self, at: Instant) -> bool {
        self.outages.was_down_since(at)
    }

    fn recovered_since(&self, at: Instant) -> bool {
        self.outages.recovered_since(at)
    }

    fn outage(&self) -> Option<Outage> {
        let down = self.outages.down()?;
        let what = format!("the probe `{}` has failed for {}", self.name, humanize::long(down.since.elapsed()));
        Some(Outage { what, why: down.why })
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).field("every", &self.every).finish_non_exhaustive()
    }
}
