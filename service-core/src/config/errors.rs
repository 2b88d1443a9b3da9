//! [`ConfigError`]: what is wrong with the configuration, where it stands, and what to write instead.
//!
//! No message holds a secret's value: whoever makes a `found` goes through `Value::show`.

use std::fmt;

use super::layers::{Layer, Origin};

/// One setting of one service, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// Id of the service, or `defaults`.
    pub service: String,
    /// The key, with dots where it is nested (`smtp.port`).
    pub key: String,
    /// The layer it was set in.
    pub layer: Layer,
    /// The place in words: `services.toml:12`, `environment variable SERVICES__EMAIL_SENDER__INTERVAL`.
    pub place: String,
}

impl Setting {
    pub(crate) fn new(service: &str, key: impl Into<String>, origin: &Origin) -> Box<Self> {
        let Origin { layer, place } = origin.clone();
        Box::new(Self { service: service.to_owned(), key: key.into(), layer, place })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service.as_str() {
            "defaults" => write!(f, "`{}` of `[defaults]`", self.key)?,
            service => write!(f, "`{}` of service `{service}`", self.key)?,
        }
        write!(f, " ({})", self.place)
    }
}

/// What is wrong with the configuration. The message names the key, the layer, what stood there (never a secret) and
/// what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that its key cannot have.
    #[error("{setting}: found {found}, expected {expected}")]
    Value {
        /// Which, and where.
        setting: Box<Setting>,
        /// What stood there; a secret is `•••`.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A key that nothing reads.
    #[error("{setting}: unknown key, {hint}")]
    UnknownKey {
        /// Which, and where.
        setting: Box<Setting>,
        /// The nearest key, or those there are.
        hint: String,
    },
    /// Settings that do not go together, or one that may not stand where it stands.
    #[error("{setting}: {problem}")]
    Conflict {
        /// Which, and where.
        setting: Box<Setting>,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// A `${VARIABLE}` that cannot be read.
    #[error("{setting}: `${{{variable}}}` cannot be read: {problem}")]
    Variable {
        /// Which, and where.
        setting: Box<Setting>,
        /// The variable.
        variable: String,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// A setting that the service needs and no layer has.
    #[error(
        "`{key}` of service `{service}` is missing: set it in {file} under [{}], or in the environment variable {variable}",
        section(service, key)
    )]
    Missing {
        /// Id of the service.
        service: String,
        /// The key, with dots where it is nested.
        key: String,
        /// The file in which it may be set.
        file: String,
        /// The environment variable that may set it.
        variable: String,
    },
    /// A field of the service's own settings bears the name of one of the attribute's keys.
    #[error("setting `{key}` of service `{service}`: `{key}` is a key of `#[service]`, rename the field")]
    Reserved {
        /// Id of the service.
        service: String,
        /// The key.
        key: String,
    },
    /// Settings of a service that do not make its type, and the type does not say which.
    #[error("settings of service `{service}`: {problem}")]
    Settings {
        /// Id of the service.
        service: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("{file}: {problem}")]
    File {
        /// The file, with the line where it is known.
        file: String,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// An environment variable, or a key given to `.set`, that names no setting.
    #[error("{name}: {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong, and the fix.
        problem: String,
    },
}

/// The table that a dotted key stands in.
fn section(service: &str, key: &str) -> String {
    match key.rsplit_once('.') {
        Some((tables, _)) => format!("{service}.{tables}"),
        None => service.to_owned(),
    }
}

impl ConfigError {
    /// The setting, where the error is about one that stands somewhere.
    pub fn setting(&self) -> Option<&Setting> {
        match self {
            Self::Value { setting, .. }
            | Self::UnknownKey { setting, .. }
            | Self::Conflict { setting, .. }
            | Self::Variable { setting, .. } => Some(setting),
            _ => None,
        }
    }
}

/// Everything that is wrong with the configuration, not only the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            all => {
                write!(f, "{} errors in the configuration:", all.len())?;
                all.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
