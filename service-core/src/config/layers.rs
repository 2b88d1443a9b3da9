//! [`Layer`] and [`Origin`]: where a value stands.

use std::fmt;
use std::sync::Arc;

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
