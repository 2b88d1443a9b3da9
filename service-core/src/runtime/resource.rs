//! [`Resource`]: what services use and may be down: the database, or what a probe checks. [`Outages`]: when it was.
//!
//! While a resource is down, the failures of the services that use it do not exhaust `max_failures`, and the end of the
//! outage ends their wait for a retry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{ConfigError, Resolved};
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::Error;
use crate::service::failure::FailureKind;
use crate::suggest::nearest;
use crate::sync::Mutex;

/// The name of the registry's database in `needs`.
pub(crate) const DATABASE: &str = "database";

/// An outage of a resource, as text.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// What does not answer and since when: "the database `…` has been down for 5 s".
    pub(crate) what: String,
    /// The cause.
    pub(crate) why: String,
}

/// What services use, and may be down.
pub(crate) trait Resource: fmt::Debug + Send + Sync {
    /// Its name in `needs`.
    fn name(&self) -> &Arc<str>;

    /// Whether this service uses it, apart from `needs`.
    fn is_used_by(&self, _service: &ServiceInner) -> bool {
        false
    }

    /// Whether this failure may come from an outage, apart from `needs`. Called for every failure; if so, a check
    /// follows soon.
    fn suspects(&self, _service: &ServiceInner, _kind: FailureKind, _error: &Error) -> bool {
        false
    }

    /// A service that needs it has failed: checks soon whether there is an outage.
    fn is_suspected(&self) {}

    /// Whether there is an outage, or was one at `began` or later. Checks it if that is not known.
    fn confirm(&self, began: Instant) -> BoxFuture<'_, bool>;

    /// Whether an outage is known that exists now or existed at `at` or later.
    fn was_down_since(&self, at: Instant) -> bool;

    /// Whether an outage ended at `at` or later, and no outage is known now.
    fn recovered_since(&self, at: Instant) -> bool;

    /// The outage that is known now.
    fn outage(&self) -> Option<Outage>;
}

/// Returns the mistake in the `needs` of a service, if it names a resource that the registry does not have.
pub(crate) fn unknown_need(id: &str, resolved: &Resolved, resources: &[Arc<dyn Resource>]) -> Option<ConfigError> {
    let is_known = |name: &String| resources.iter().any(|resource| **resource.name() == **name);
    let unknown = resolved.options.needs.iter().find(|name| !is_known(name))?;
    let set = resolved.set_by("needs")?;
    let hint = match nearest(unknown, resources.iter().map(|resource| &**resource.name())) {
        Some(near) => format!("did you mean `{near}`?"),
        None if unknown == DATABASE => "add a database to the builder".to_owned(),
        None => format!("add `.probe(\"{unknown}\", …)` to the builder"),
    };
    let problem = format!("names the probe `{unknown}`, which the registry does not have; {hint}");
    Some(ConfigError::Conflict { setting: set.setting(id), problem })
}

/// The outages of a resource, as far as they are known: the present one, and the end of the last one.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    down: Option<Down>,
    /// The end of the last outage.
    returned: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(crate) struct Down {
    pub(crate) since: Instant,
    pub(crate) why: String,
}

impl Outages {
    /// The outage that exists now.
    pub(crate) fn down(&self) -> Option<Down> {
        self.state.lock().down.clone()
    }

    /// Records that the resource is down. True if it was up before.
    pub(crate) fn mark_down(&self, why: String) -> bool {
        let down = &mut self.state.lock().down;
        let is_news = down.is_none();
        let since = down.as_ref().map_or_else(Instant::now, |down| down.since);
        *down = Some(Down { since, why });
        is_news
    }

    /// Records that the resource is available. Returns the length of the outage that ends with it.
    pub(crate) fn mark_up(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let down = state.down.take()?;
        state.returned = Some(Instant::now());
        Some(down.since.elapsed())
    }

    /// Whether an outage has ended since `at`, and none exists now.
    pub(crate) fn recovered_since(&self, at: Instant) -> bool {
        let state = self.state.lock();
        state.down.is_none() && state.returned.is_some_and(|returned| returned >= at)
    }

    /// Whether there is an outage, or was one at `at` or later.
    pub(crate) fn was_down_since(&self, at: Instant) -> bool {
        let state = self.state.lock();
        state.down.is_some() || state.returned.is_some_and(|returned| returned >= at)
    }
}
