//! [`Settings`]: a service's own settings, and reading them as its type.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::deserialize::{self, Subject};
use super::errors::{ConfigError, Setting};
use super::fields::fields;
use super::keys;
use super::values::{Node, Table, Value};
use crate::suggest::{is_probably, nearest};
use crate::sync::Mutex;

/// A service's own settings, merged from all layers. `Debug` shows only keys and places.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Always a table.
    root: Value,
    /// The name of the file, for errors about missing settings.
    file: String,
    /// The types that `misspelt` has checked, by their fields.
    checked: Arc<Mutex<BTreeSet<&'static [&'static str]>>>,
}

impl Settings {
    pub(super) fn new(table: Table, file: &str) -> Self {
        Self { root: Value::Table(table), file: file.to_owned(), checked: Arc::default() }
    }

    /// Reads the settings that `T` has fields for.
    ///
    /// # Errors
    /// A setting is missing or wrong, or a field of `T` has the name of a key of the attribute.
    pub(crate) fn get<T: DeserializeOwned>(&self, service: &str) -> Result<T, ConfigError> {
        self.read(service, false)
    }

    /// Reads all settings, as the type that `configure` takes.
    ///
    /// # Errors
    /// As for [`get`](Self::get); and a nested key is unknown.
    pub(crate) fn get_all<T: DeserializeOwned>(&self, service: &str) -> Result<T, ConfigError> {
        self.read(service, true)
    }

    /// Describes the keys that are no field of `T` but similar to one that is not set; for each type once. They are
    /// probably misspelt, but may also be fields of another type that the service reads.
    pub(crate) fn misspelt<T: DeserializeOwned>(&self, service: &str) -> Vec<String> {
        let (Value::Table(table), Some(fields)) = (&self.root, fields::<T>()) else { return Vec::new() };
        // The settings may be read in every run.
        if !self.checked.lock().insert(fields) {
            return Vec::new();
        }
        let is_field = |key: &str, node: &Node| fields.iter().any(|field| node.origin.layer.names(key, field));
        let is_set = |field: &str| table.iter().any(|(key, node)| node.origin.layer.names(key, field));
        let unset: Vec<&str> = fields.iter().copied().filter(|field| !is_set(field)).collect();
        let unread = table.iter().filter(|(key, node)| !is_field(key, node) && !node.origin.is_set_for_all());
        let describe = |(key, node): (&String, &Node)| {
            let near = nearest(key, unset.iter().copied()).filter(|near| is_probably(key, near))?;
            let setting = Setting::new(service, key, &node.origin);
            Some(format!("{setting}: is not read, did you mean `{near}`?"))
        };
        unread.filter_map(describe).collect()
    }

    fn read<T: DeserializeOwned>(&self, service: &str, complete: bool) -> Result<T, ConfigError> {
        let known = fields::<T>().unwrap_or_default();
        if let Some(key) = known.iter().find(|field| keys::find(field).is_some()) {
            return Err(ConfigError::Reserved { service: service.to_owned(), key: (*key).to_owned() });
        }
        deserialize::read(&self.root, Subject { service, file: &self.file, complete })
    }

    /// Whether the values are the same, wherever they are set.
    pub(crate) fn same_values(&self, other: &Self) -> bool {
        self.root.equals(&other.root)
    }

    /// The dotted keys that are set, each with its place, for `explain`. Values are not shown: only the type knows
    /// which ones are a `Secret`.
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
