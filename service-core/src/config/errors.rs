//! [`ConfigError`]: an error in the configuration: its place, and the correction.
//!
//! No message contains the value of a secret: every `found` comes from `Value::show`.

use std::fmt;

use super::layers::{Layer, Origin};

/// One key of one service, and the place where it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// Id of the service, or `defaults`.
    pub service: String,
    /// The key, with dots where it is nested (`smtp.port`).
    pub key: String,
    /// The layer that sets it.
    pub layer: Layer,
    /// The place in words: `services.toml:12`, `environment variable SERVICES__EMAIL_SENDER__INTERVAL`.
    pub place: String,
}

impl Setting {
    pub(crate) fn new(service: &str, key: impl Into<String>, origin: &Origin) -> Box<Self> {
        let Origin { layer, place, .. } = origin.clone();
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

/// An error in the configuration. The message names the key, the place, the value found (never a secret) and the value
/// expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The value of a key is not one that the key accepts.
    #[error("{setting}: found {found}, expected {expected}")]
    Value {
        /// The key and its place.
        setting: Box<Setting>,
        /// The value found; a secret is `•••`.
        found: String,
        /// The values that are accepted.
        expected: String,
    },
    /// Neither the attribute nor the settings of the service have this key.
    #[error("{setting}: unknown key, {hint}")]
    UnknownKey {
        /// The key and its place.
        setting: Box<Setting>,
        /// The nearest key, or the keys that exist.
        hint: String,
    },
    /// A key contradicts another one, or is not accepted at this place.
    #[error("{setting}: {problem}")]
    Conflict {
        /// The key and its place.
        setting: Box<Setting>,
        /// The problem and the correction.
        problem: String,
    },
    /// A `${VARIABLE}` cannot be read.
    #[error("{setting}: `${{{variable}}}` cannot be read: {problem}")]
    Variable {
        /// The key and its place.
        setting: Box<Setting>,
        /// The name of the variable.
        variable: String,
        /// The problem and the correction.
        problem: String,
    },
    /// No layer sets a setting that the service requires.
    #[error(
        "`{key}` of service `{service}` is missing: set it in {file} under [{}], or in the environment variable {variable}",
        section(service, key)
    )]
    Missing {
        /// Id of the service.
        service: String,
        /// The key, with dots where it is nested.
        key: String,
        /// The file in which it can be set.
        file: String,
        /// The environment variable that can set it.
        variable: String,
    },
    /// A field of the service's settings has the name of a key of the attribute.
    #[error("setting `{key}` of service `{service}`: `{key}` is a key of `#[service]`, rename the field")]
    Reserved {
        /// Id of the service.
        service: String,
        /// The key.
        key: String,
    },
    /// The settings of a service do not fit their type, and no single key is known to be the cause.
    #[error("settings of service `{service}`: {problem}")]
    Settings {
        /// Id of the service.
        service: String,
        /// The problem.
        problem: String,
    },
    /// The file cannot be read or parsed.
    #[error("{file}: {problem}")]
    File {
        /// The file, with the line if it is known.
        file: String,
        /// The problem and the correction.
        problem: String,
    },
    /// The name of an environment variable, or a key passed to `.set`, is not the name of a setting.
    #[error("{name}: {problem}")]
    Name {
        /// The name.
        name: String,
        /// The problem and the correction.
        problem: String,
    },
}

/// The table that contains a dotted key.
fn section(service: &str, key: &str) -> String {
    match key.rsplit_once('.') {
        Some((tables, _)) => format!("{service}.{tables}"),
        None => service.to_owned(),
    }
}

impl ConfigError {
    /// Returns the key and its place, if the error is about a key that is set.
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

/// All errors in the configuration of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl ConfigErrors {
    /// Iterates over the errors, in the order found.
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
