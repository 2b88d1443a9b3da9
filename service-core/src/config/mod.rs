//! Configuration: the layers, how a value of one becomes an option or a setting, and where each came from.
//!
//! [`Sources`] holds what was read once for the whole registry; `resolve` makes of it one service's [`Resolved`]. The
//! tricky part is what "later wins" means for options that hang together: a schedule replaces the schedule of every
//! layer below whatever its kind, while two schedules in one layer are an error (`resolver.rs`).
//!
//! Their order is that of [`Layer`]. `[defaults]` is one layer wherever it is written, and in each layer a value for the
//! service's id wins over one for the name of its type (`layers.rs`).

mod coercion;
mod descriptor;
mod deserialize;
mod environment;
mod errors;
pub(crate) mod fields;
mod keys;
mod kinds;
mod layers;
pub(crate) mod options;
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

pub(crate) use descriptor::{SettingsType, UNDECLARED, settings};
#[cfg(feature = "database")]
pub(crate) use keys::is_attribute;
#[allow(unused_imports, reason = "`explain` and the tables' layers name them")]
pub(crate) use resolver::{Provenance, Resolved, Row, Target};
#[cfg(feature = "database")]
pub(crate) use secrets::{REDACTED, is_secret};
pub(crate) use sources::{Inputs, Sources};

/// The page's code is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/configuration.md")]
struct Page;

#[cfg(test)]
mod tests;
