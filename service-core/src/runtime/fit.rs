//! [`fit`]: leaves out of a configuration what cannot apply to a service, or finds the mistake in it.

use std::fmt;
use std::sync::Arc;

use crate::config::{ConfigError, Provenance, Resolved};
use crate::runtime::factory::Factory;
use crate::schedule::{CatchUp, Schedule};

/// Why `instances` cannot be above one.
pub(crate) const ONLY_ONE: &str =
    "needs a way to build several instances, but a ready-made one was registered; register it with `service_fn`";

/// The error of an option that this service cannot have.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(super) set: Box<Provenance>,
    pub(super) problem: &'static str,
}

impl Unfit {
    /// Returns the error as that of one setting.
    pub(crate) fn of_setting(&self, id: &str) -> ConfigError {
        let problem = format!("`{}` {}", self.set.value, self.problem);
        ConfigError::Conflict { setting: self.set.setting(id), problem }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Provenance { key, value, place, .. } = &*self.set;
        // A number has no quotes.
        let quote = if value.parse::<u32>().is_ok() { "" } else { "\"" };
        write!(f, "`{key} = {quote}{value}{quote}` ({place}) {}", self.problem)
    }
}

/// Returns the configuration without what cannot apply to this service: a ready-made instance cannot be restarted, so
/// `restart` in `[defaults]` does not apply to it, and `restart` for this service is an error, and so for `scope`; and
/// a service that was registered while the registry ran is one, whatever `instances` of its type is. For single runs of
/// a test, neither matters.
pub(super) fn fit(resolved: Arc<Resolved>, factory: &Factory, (_, of): (u32, u32)) -> Result<Arc<Resolved>, Unfit> {
    let is_borrowed = matches!(factory, Factory::Borrowed);
    let set_here = |key: &str| {
        let set = resolved.set_by(key).filter(|set| !set.is_for_all() && !is_borrowed);
        set.cloned().map(Box::new)
    };
    let without_scope = factory.is_ready_made() && resolved.options.lease.is_some();
    if without_scope && let Some(set) = set_here("scope") {
        let problem = "needs a fresh instance after each takeover, but a ready-made one was registered; register it with \
                       `service_fn` (or `register_fn`), or leave `scope` out";
        return Err(Unfit { set, problem });
    }
    let without_restart = factory.is_ready_made() && resolved.options.restart.is_some();
    let is_one = of == 1 && resolved.options.instances != 1;
    if without_restart && let Some(set) = set_here("restart") {
        let problem = "needs a fresh instance, but a ready-made one was registered; register it with `service_fn` (or \
                       `register_fn`), or leave `restart` out";
        return Err(Unfit { set, problem });
    }
    if !without_restart && !without_scope && !is_one {
        return Ok(resolved);
    }
    let mut fitted = (*resolved).clone();
    let mut options = (*fitted.options).clone();
    if without_restart {
        options.restart = None;
        fitted.provenance.retain(|set| !set.key.contains("restart"));
    }
    if without_scope {
        options.lease = None;
        fitted.provenance.retain(|set| set.key != "scope" && set.key != "lease");
        // With `scope`, `latest` is the default.
        if let Schedule::Cron(cron) = &mut options.schedule
            && fitted.set_by("catch_up").is_none()
        {
            cron.catch_up = CatchUp::None;
        }
    }
    if is_one {
        options.instances = 1;
        fitted.provenance.retain(|set| set.key != "instances");
    }
    fitted.options = Arc::new(options);
    Ok(Arc::new(fitted))
}
