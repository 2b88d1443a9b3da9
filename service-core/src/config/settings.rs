//! [`Settings`]: a service's own settings, and how they become its type.

use std::fmt;

use serde::de::DeserializeOwned;

use super::deserialize::{self, Subject};
use super::errors::ConfigError;
use super::fields::fields;
use super::keys;
use super::values::{Table, Value};

/// A service's own settings, of all layers. `Debug` shows them without secrets.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Always a table.
    root: Value,
    /// The file's name, for what is missing.
    file: String,
}

impl Settings {
    pub(super) fn new(table: Table, file: &str) -> Self {
        Self { root: Value::Table(table), file: file.to_owned() }
    }

    /// The settings that `T` has fields for.
    ///
    /// # Errors
    /// A setting is missing or does not fit, or a field of `T` has the name of one of the attribute's keys.
    pub(crate) fn get<T: DeserializeOwned>(&self, service: &str) -> Result<T, ConfigError> {
        self.read(service, false)
    }

    /// All settings, as the type that `configure` takes.
    ///
    /// # Errors
    /// As for [`get`](Self::get); and a nested key is unknown.
    pub(crate) fn get_all<T: DeserializeOwned>(&self, service: &str) -> Result<T, ConfigError> {
        self.read(service, true)
    }

    fn read<T: DeserializeOwned>(&self, service: &str, complete: bool) -> Result<T, ConfigError> {
        let known = fields::<T>().unwrap_or_default();
        if let Some(key) = known.iter().find(|field| keys::find(field).is_some()) {
            return Err(ConfigError::Reserved { service: service.to_owned(), key: (*key).to_owned() });
        }
        deserialize::read(&self.root, Subject { service, file: &self.file, complete })
    }

    /// Keys that are set, the dotted path of each with its place, for `explain`. Values are not shown: whether one is a
    /// `Secret` only its type knows.
    pub(crate) fn places(&self) -> Vec<(String, String)> {
        let mut places = Vec::new();
        collect("", &self.root, &mut places);
        places
    }
}

fn collect(prefix: &str, value: &Value, places: &mut Vec<(String, String)>) {
    let Value::Table(table) = value else { return };
    for (key, node) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match &node.value {
            Value::Table(_) => collect(&path, &node.value, places),
            _ => places.push((path, node.origin.place.clone())),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.places()).finish()
    }
}
