//! Configuration: the layers, how a value of one becomes an option or a setting, and where each came from.
//!
//! [`Sources`] holds what was read once for the whole registry; `resolve` makes of it one service's [`Resolved`]. The
//! tricky part is what "later wins" means for options that hang together: a schedule replaces the schedule of every
//! layer below whatever its kind, while two schedules in one layer are an error (`resolve.rs`).
//!
//! Precedence, lowest first: defaults, attribute, `ServiceOptions`, `[defaults]`, the service's section, the environment,
//! the `service_config` table, operator overrides, `.set` in the builder, and what the service itself set while running.
//! What is said of one service beats what is said of all: `SERVICES__DEFAULTS__…` is part of `[defaults]`.

mod deserialize;
mod environment;
mod errors;
pub(crate) mod fields;
mod keys;
pub(crate) mod options;
mod resolver;
mod settings;
mod sources;
mod toml;
mod values;

use std::fmt;
use std::sync::Arc;

pub use errors::{ConfigError, ConfigErrors, Setting};

pub use values::SettingValue;

#[cfg(feature = "database")]
pub(crate) use keys::is_attribute;
#[allow(unused_imports, reason = "`explain` and the tables' layers name them")]
pub(crate) use resolver::{Provenance, Resolved, Row};
pub(crate) use settings::Settings;
pub(crate) use sources::{Inputs, Sources};
#[cfg(feature = "database")]
pub(crate) use values::{REDACTED, is_secret};
pub(crate) use values::{Value, list};

/// A layer of the configuration; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// What holds when nothing was said.
    Default,
    /// `#[service(…)]`.
    Attribute,
    /// [`ServiceOptions`](crate::ServiceOptions).
    Code,
    /// `[defaults]`, for all services.
    Defaults,
    /// The service's section in `services.toml`.
    File,
    /// An environment variable.
    Environment,
    /// A row of the table `service_config`.
    Table,
    /// An operator's override.
    Override,
    /// `.set` in the builder or the test bed.
    Set,
    /// The service itself, while running.
    Running,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Attribute => "attribute",
            Self::Code => "ServiceOptions",
            Self::Defaults => "[defaults]",
            Self::File => "services.toml",
            Self::Environment => "environment",
            Self::Table => "service_config",
            Self::Override => "operator override",
            Self::Set => ".set",
            Self::Running => "set by the service itself while running",
        })
    }
}

/// Where a value stands: its layer, and the place in words (`services.toml:12`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) layer: Layer,
    pub(crate) place: String,
}

impl Origin {
    pub(crate) fn new(layer: Layer, place: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { layer, place: place.into() })
    }
}

/// The page's code is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/configuration.md")]
struct Page;

#[cfg(test)]
mod tests;
