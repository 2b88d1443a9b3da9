//! [`Resolved`]: the configuration of one service, with the place of each value.

use std::sync::Arc;

use super::errors::{ConfigError, Setting};
use super::keys::{self, Key};
use super::layers::{Layer, Origin, is_set_for_all};
use super::settings::Settings;
use crate::config::options::Options;

/// The place of the value of an option, and the values that it hides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Provenance {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) layer: Layer,
    pub(crate) place: String,
    /// The values of lower layers, the highest first. Those of a schedule may have another key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) shadowed: Vec<Provenance>,
}

/// The configuration of one service.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) options: Arc<Options>,
    /// Every option that a layer sets, in the order of the documentation.
    pub(crate) provenance: Vec<Provenance>,
    /// The service's own settings.
    pub(crate) settings: Settings,
    /// The errors of the rows that were left out.
    pub(crate) rejected: Vec<ConfigError>,
    /// What is accepted, but probably not intended.
    pub(crate) warnings: Vec<String>,
}

impl Resolved {
    /// What sets an option; `None`: no layer does.
    pub(crate) fn set_by(&self, key: &str) -> Option<&Provenance> {
        self.provenance.iter().find(|set| set.key == key)
    }

    /// The layer that sets the schedule; `None`: no layer does.
    pub(crate) fn schedule_layer(&self) -> Option<Layer> {
        // `on_demand = false` is no schedule.
        let is_schedule = |set: &&Provenance| is_schedule(set.key) && set.value != "false";
        self.provenance.iter().find(is_schedule).map(|set| set.layer)
    }

    /// Every option in effect, in the order of the documentation, with its place, for `explain`. `now` are the current
    /// options: where they differ from the layers, the service itself changed them.
    pub(crate) fn explain(&self, now: &Options) -> Vec<Provenance> {
        let explain = |key: &'static Key| {
            let value = key.kind.show(now)?;
            // `on_demand = false` is no schedule.
            let same = |set: &&Provenance| {
                set.key == key.name || (key.is_schedule() && is_schedule(set.key) && set.value != "false")
            };
            let set = self.provenance.iter().find(same);
            if key.kind.show(&self.options).as_ref() == Some(&value) {
                return Some(set.cloned().unwrap_or_else(|| Provenance::new(key.name, value, Layer::Default)));
            }
            let below = set.map(|set| (Provenance { shadowed: Vec::new(), ..set.clone() }, set.shadowed.clone()));
            let shadowed = below.into_iter().flat_map(|(set, rest)| std::iter::once(set).chain(rest)).collect();
            Some(Provenance { shadowed, ..Provenance::new(key.name, value, Layer::Running) })
        };
        keys::options().filter_map(explain).collect()
    }
}

/// A change of the file that needs a restart of the program.
pub(crate) struct PendingChange {
    pub(crate) key: &'static str,
    /// The value after a restart.
    pub(crate) value: String,
    /// Where it is set.
    pub(crate) place: String,
}

impl Resolved {
    /// Returns the options that another value replaces after a restart: `new` is the configuration as it will be then.
    pub(crate) fn pending_changes(&self, new: &Self) -> Vec<PendingChange> {
        let changed = |key: &'static Key| {
            let value =
                key.kind.show(&new.options).filter(|value| key.kind.show(&self.options).as_ref() != Some(value))?;
            let place = new.set_by(key.name).map_or_else(|| Layer::Default.to_string(), |set| set.place.clone());
            Some(PendingChange { key: key.name, value, place })
        };
        keys::options().filter(|key| key.is_read_at_start()).filter_map(changed).collect()
    }
}

impl Provenance {
    /// Whether the value was set for all services at once.
    pub(crate) fn is_for_all(&self) -> bool {
        self.layer == Layer::Defaults || is_set_for_all(self.layer, &self.place)
    }

    /// The key and its place, for an error.
    pub(crate) fn setting(&self, service: &str) -> Box<Setting> {
        Setting::new(service, self.key, &Origin::new(self.layer, self.place.as_str()))
    }

    pub(super) fn new(key: &'static str, value: String, layer: Layer) -> Self {
        Self { key, value, layer, place: layer.to_string(), shadowed: Vec::new() }
    }
}

/// Whether this is the key of a schedule.
pub(super) fn is_schedule(key: &str) -> bool {
    keys::find(key).is_some_and(Key::is_schedule)
}
