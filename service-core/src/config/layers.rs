//! [`Layer`], [`Precedence`] and [`Origin`]: where a value stands, and which of two wins.

use std::fmt;
use std::sync::Arc;

/// A layer of the configuration; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// The built-in default.
    Default,
    /// `[defaults]`, for all services: of the file, the environment, `service_config` and `.set`.
    Defaults,
    /// `#[service(…)]`.
    Attribute,
    /// [`ServiceOptions`](crate::ServiceOptions).
    Code,
    /// The section of the service's type in `services.toml`, for services of another id.
    Type,
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
            Self::Defaults => "[defaults]",
            Self::Attribute => "attribute",
            Self::Code => "ServiceOptions",
            Self::Type => "section of the type in services.toml",
            Self::File => "services.toml",
            Self::Environment => "environment",
            Self::Table => "service_config",
            Self::Override => "operator override",
            Self::Set => ".set",
            Self::Running => "set by the service itself while running",
        })
    }
}

/// The order of everything that can set a value; a later one wins. A layer that several names lead to has several: those
/// of all services, of the service's type and of its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precedence {
    DefaultsFile,
    DefaultsEnvironment,
    DefaultsTable,
    DefaultsSet,
    Attribute,
    Code,
    TypeFile,
    File,
    TypeEnvironment,
    Environment,
    TypeTable,
    Table,
    TypeOverride,
    Override,
    SetForAll,
    TypeSet,
    Set,
    Running,
}

impl Precedence {
    /// Whether it is a place of `[defaults]`.
    pub(super) fn is_default(self) -> bool {
        (Self::DefaultsFile..=Self::DefaultsSet).contains(&self)
    }

    /// The same place, for services of another id whose type has this name.
    pub(super) fn of_type(self) -> Self {
        match self {
            Self::File => Self::TypeFile,
            Self::Environment => Self::TypeEnvironment,
            Self::Table => Self::TypeTable,
            Self::Override => Self::TypeOverride,
            Self::Set => Self::TypeSet,
            other => other,
        }
    }
}

/// Whom a row of a table is for, by its `service_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code, reason = "only a database has rows")]
pub(crate) enum Scope {
    /// `defaults`: all services.
    Defaults,
    /// The name of a type: its services of another id.
    Type,
    /// The id of one service.
    Service,
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

/// How the place of a value ends that is set for every service at once.
pub(super) const FOR_ALL: &str = "for every service";
