//! [`Layer`], [`Precedence`] and [`Origin`]: the place of a value, and which of two values wins.

use std::fmt;
use std::sync::Arc;

/// A layer of the configuration. A later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// The built-in default.
    Default,
    /// `[defaults]` in the file, the environment, `service_config` or `.set`: for all services.
    Defaults,
    /// `#[service(…)]`.
    Attribute,
    /// [`ServiceOptions`](crate::ServiceOptions).
    Code,
    /// The section of the service's type in `services.toml`, if the service has another id.
    Type,
    /// The section of the service's id in `services.toml`.
    File,
    /// An environment variable.
    Environment,
    /// A row of the table `service_config`.
    Table,
    /// An override by an operator: a row of the table `service_override`.
    Override,
    /// `.set` in the builder or the test bed.
    Set,
    /// The service itself, while running.
    Running,
}

impl Layer {
    /// Whether a key of this layer is meant to be another one: names of environment variables have no case and no `-`.
    pub(crate) fn is_meant(self, key: &str, meant: &str) -> bool {
        let plain = |c: u8| if c == b'-' { b'_' } else { c.to_ascii_lowercase() };
        self == Self::Environment && key.bytes().map(plain).eq(meant.bytes().map(plain))
    }

    /// Whether a key of this layer is the field, as written or as it is meant.
    pub(crate) fn names(self, key: &str, field: &str) -> bool {
        key == field || self.is_meant(key, field)
    }
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

/// The order of the places that can set a value. A later one wins. A layer can have several: for all services, for the
/// type of the service, and for its id.
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
    /// Whether the place belongs to `[defaults]`.
    pub(super) fn is_default(self) -> bool {
        (Self::DefaultsFile..=Self::DefaultsSet).contains(&self)
    }

    /// Whether the place is in the file.
    pub(super) fn is_file(self) -> bool {
        matches!(self, Self::DefaultsFile | Self::TypeFile | Self::File)
    }

    /// The same layer, but under the name of the type instead of the id.
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

/// The services that a row of a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// All services: its `service_id` is `defaults`.
    Defaults,
    /// The services of a type that have another id: its `service_id` is the name of the type.
    Type,
    /// One service.
    Service,
}

/// Where a value is set: its layer, and the place for messages (`services.toml:12`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) layer: Layer,
    pub(crate) place: String,
    /// Among the merged settings of a service, a value of a later place has a higher number. 0 before.
    pub(crate) order: u32,
}

impl Origin {
    pub(crate) fn new(layer: Layer, place: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { layer, place: place.into(), order: 0 })
    }

    /// Whether the test bed sets the value for every service.
    pub(super) fn is_set_for_all(&self) -> bool {
        is_set_for_all(self.layer, &self.place)
    }
}

/// Whether the test bed sets a value of this layer and place for every service. The place of an override ends in the
/// reason that an operator has given, which can be any text.
pub(super) fn is_set_for_all(layer: Layer, place: &str) -> bool {
    layer == Layer::Set && place.ends_with(FOR_ALL)
}

/// The end of the place of a value that is set for every service.
pub(super) const FOR_ALL: &str = "for every service";
