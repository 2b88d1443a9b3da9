//! From an error without a place to a [`ConfigError`]: which key, where it stands, and nothing of a secret.
//!
//! Whoever buffers values (`flatten`, untagged enums, `try_from`) makes errors that have lost their key. They get the
//! place of the table around them, and every secret below it is cut out of their text.

use super::Reader;
use super::errors::{Error, in_words};
use crate::config::environment::variable_name;
use crate::config::errors::{ConfigError, Setting};
use crate::config::layers::{Layer, Origin};
use crate::config::resolver;
use crate::config::values::{REDACTED, Value};
use crate::humanize::one_of;
use crate::service::secret::INVALID;
use crate::suggest::nearest;

impl Reader<'_> {
    /// Gives an error its place, and takes out what must not be shown. An error that has its place keeps it.
    pub(in crate::config) fn locate(&self, error: Error) -> Error {
        if let Error::Located(_) = error {
            return error;
        }
        if matches!(&error, Error::Message(text) if text == INVALID)
            && let Some(invalid) = self.shared.invalid.borrow_mut().take()
        {
            return Error::Located(Box::new(invalid));
        }
        let located = match self.origin {
            Some(origin) => self.describe(error, origin),
            None => self.describe_root(error),
        };
        Error::Located(Box::new(located))
    }

    fn describe(&self, error: Error, origin: &Origin) -> ConfigError {
        let setting = Setting::new(self.shared.service, self.path.clone(), origin);
        let leaf = !matches!(self.value, Value::List(_) | Value::Table(_));
        match error {
            Error::InvalidType { unexpected, expected } => {
                let found = if leaf || self.secret { self.value.show(self.secret) } else { self.found(&unexpected) };
                ConfigError::Value { setting, found, expected: in_words(&expected) }
            }
            Error::UnknownVariant { variant, known } => {
                let found = if leaf { self.value.show(self.secret) } else { self.clean(&format!("{variant:?}")) };
                ConfigError::Value { setting, found, expected: one_of(known.iter().copied()) }
            }
            Error::Missing(field) => self.missing(field, origin),
            Error::UnknownField { field, known } => self.unknown(&field, known, origin),
            other if self.secret => {
                drop(other);
                ConfigError::Value {
                    setting,
                    found: REDACTED.to_owned(),
                    expected: "a value that its type takes".to_owned(),
                }
            }
            other if leaf => {
                ConfigError::Conflict { setting, problem: format!("found {}: {other}", self.value.show(false)) }
            }
            other => ConfigError::Conflict { setting, problem: self.clean(&other.to_string()) },
        }
    }

    fn describe_root(&self, error: Error) -> ConfigError {
        let root = Origin { layer: Layer::Default, place: self.shared.file.to_owned() };
        match error {
            Error::Missing(field) => self.missing(field, &root),
            Error::UnknownField { field, known } => self.unknown(&field, known, &root),
            Error::InvalidType { unexpected, expected } => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: format!("found {}, expected {}", self.found(&unexpected), in_words(&expected)),
            },
            Error::UnknownVariant { variant, known } => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: format!(
                    "found {}, expected {}",
                    self.clean(&format!("{variant:?}")),
                    one_of(known.iter().copied())
                ),
            },
            other => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: self.clean(&other.to_string()),
            },
        }
    }

    fn missing(&self, field: &str, origin: &Origin) -> ConfigError {
        let service = self.shared.service.to_owned();
        if self.path.contains('[') {
            let problem = format!("`{field}` is missing");
            return ConfigError::Conflict { setting: Setting::new(&service, self.path.clone(), origin), problem };
        }
        let key = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        let variable = variable_name(&service, &key);
        ConfigError::Missing { service, key, file: self.shared.file.to_owned(), variable }
    }

    fn unknown(&self, field: &str, known: &'static [&'static str], origin: &Origin) -> ConfigError {
        let key = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        let origin = match self.value {
            Value::Table(table) => table.get(field).map_or(origin, |node| &node.origin),
            _ => origin,
        };
        let hint = if self.path.is_empty() { resolver::hint(field, known) } else { nested_hint(field, known) };
        ConfigError::UnknownKey { setting: Setting::new(self.shared.service, key, origin), hint }
    }

    /// serde's word for what it met somewhere below.
    fn found(&self, unexpected: &str) -> String {
        match unexpected {
            "map" | "sequence" => self.value.kind().to_owned(),
            other => self.clean(other),
        }
    }

    /// Somebody else's text, without the secrets that stand below here.
    fn clean(&self, text: &str) -> String {
        let mut secrets = self.shared.secrets.borrow().clone();
        self.value.secrets(self.secret, &mut secrets);
        // The longest first, so that none is left half cut.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut text = text.to_owned();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), REDACTED);
            // As it stands in a quoted string.
            text = text.replace(secret.escape_debug().to_string().as_str(), REDACTED);
        }
        text
    }

    /// The error of a `${…}` that could not be read.
    pub(super) fn unreadable(&self, variable: &str, why: &str) -> Error {
        let Some(origin) = self.origin else { return Error::Message(why.to_owned()) };
        Error::Located(Box::new(ConfigError::Variable {
            setting: Setting::new(self.shared.service, self.path.clone(), origin),
            variable: variable.to_owned(),
            problem: why.to_owned(),
        }))
    }
}

fn nested_hint(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {}", one_of(known.iter().copied())),
    }
}
