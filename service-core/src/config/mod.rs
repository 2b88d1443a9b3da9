//! Configuration: the layers, and how their values become options and settings.
//!
//! [`Sources`] is read once for the whole registry; its `resolve` returns the [`Resolved`] configuration of one
//! service. The tricky part is keys that depend on each other: a schedule replaces the schedule of every lower layer,
//! also one of another kind, while two schedules in one layer are an error (`resolver.rs`).
//!
//! [`Layer`] has the order of the layers. `[defaults]` is one layer, wherever it is written. In every other layer, a
//! value for the id of a service wins over one for the name of its type (`layers.rs`).

mod coercion;
mod descriptor;
mod deserialize;
mod environment;
mod errors;
pub(crate) mod fields;
mod keys;
mod kinds;
mod layers;
mod merge;
pub(crate) mod options;
mod resolved;
mod resolver;
mod secrets;
mod settings;
mod sources;
mod toml;
mod units;
mod values;

pub use descriptor::ServiceDescriptor;
pub use errors::{ConfigError, ConfigErrors, Setting};
pub use layers::Layer;
#[cfg(feature = "database")]
pub(crate) use layers::{Origin, Scope};
pub use values::SettingValue;

pub(crate) use descriptor::{POSSIBLE, SettingsType, UNDECLARED, settings};
#[cfg(any(feature = "admin", feature = "database"))]
pub(crate) use keys::is_option;
pub(crate) use kinds::is_name;
#[allow(unused_imports, reason = "`explain` and the tables' layers name them")]
pub(crate) use resolved::{PendingChange, Provenance, Resolved};
#[allow(unused_imports, reason = "the tables' layers name them")]
pub(crate) use resolver::{KeptValues, Row, Target};
#[cfg(feature = "database")]
pub(crate) use secrets::redact_url;
pub(crate) use settings::Settings;
pub(crate) use sources::{Inputs, Sources};
#[cfg(feature = "admin")]
pub(crate) use units::duration as parse_duration;

/// Compiles the code of the page with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/configuration.md")]
struct Page;

#[cfg(test)]
mod tests;
