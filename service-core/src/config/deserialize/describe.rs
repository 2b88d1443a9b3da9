//! From an [`Error`] to a [`ConfigError`], with the key and its place, and without secrets.

use super::errors::{Error, Problem, in_words};
use super::path::{self, Located, Step};
use super::secrets;
use super::subject::Subject;
use crate::config::environment::variable_name;
use crate::config::errors::{ConfigError, Setting};
use crate::config::keys;
use crate::config::layers::{Layer, Origin};
use crate::config::values::Value;
use crate::humanize::one_of;
use crate::service::secret::REDACTED;
use crate::suggest::nearest;

pub(super) struct Describer<'a> {
    settings: &'a Value,
    subject: Subject<'a>,
    /// The secrets, to be removed from messages.
    secrets: Vec<String>,
}

impl<'a> Describer<'a> {
    pub(super) fn new(settings: &'a Value, subject: Subject<'a>) -> Self {
        let mut found = Vec::new();
        secrets::collect(settings, false, &mut found);
        Self { settings, subject, secrets: found }
    }

    /// Adds secrets.
    pub(super) fn hide(&mut self, secrets: Vec<String>) {
        self.secrets.extend(secrets);
    }

    /// Describes the error as one about the value at this path.
    pub(super) fn describe(&self, error: &Error, at: &[Step]) -> ConfigError {
        let found = path::find(self.settings, at);
        match (&error.problem, &found.origin) {
            (Problem::Missing(field), _) => self.missing(field, at, &found),
            (Problem::UnknownField { field, known }, _) => self.unknown(field, known, at, &found),
            (_, Some(origin)) => self.wrong(error, Setting::new(self.subject.service, path::show(at), origin), &found),
            (problem, None) => ConfigError::Settings {
                service: self.subject.service.to_owned(),
                problem: match problem {
                    Problem::InvalidType { unexpected, expected } => {
                        format!("found {}, expected {}", self.unexpected(unexpected, &found), in_words(expected))
                    }
                    Problem::UnknownVariant { variant, known } => {
                        let known = one_of(known.iter().copied());
                        format!("found {}, expected {known}", self.clean(&format!("{variant:?}")))
                    }
                    _ => self.clean(&error.to_string()),
                },
            },
        }
    }

    fn wrong(&self, error: &Error, setting: Box<Setting>, found: &Located<'_>) -> ConfigError {
        let secret = found.secret || error.secret;
        let leaf = !matches!(*found.value, Value::List(_) | Value::Table(_));
        let shown = || if leaf || secret { Some(found.value.show(secret)) } else { None };
        match &error.problem {
            Problem::InvalidType { unexpected, expected } => {
                let found = shown().unwrap_or_else(|| self.unexpected(unexpected, found));
                ConfigError::Value { setting, found, expected: in_words(expected) }
            }
            Problem::UnknownVariant { variant, known } => {
                let found = shown().unwrap_or_else(|| self.clean(&format!("{variant:?}")));
                ConfigError::Value { setting, found, expected: one_of(known.iter().copied()) }
            }
            Problem::Unreadable { variable, why } => {
                ConfigError::Variable { setting, variable: variable.clone(), problem: (*why).to_owned() }
            }
            _ if secret => {
                let expected = "a value that its type accepts".to_owned();
                ConfigError::Value { setting, found: REDACTED.to_owned(), expected }
            }
            _ => {
                let problem = self.clean(&error.to_string());
                let found = shown().map(|found| format!("found {found}: ")).unwrap_or_default();
                ConfigError::Conflict { setting, problem: found + &problem }
            }
        }
    }

    fn missing(&self, field: &str, at: &[Step], found: &Located<'_>) -> ConfigError {
        let service = self.subject.service.to_owned();
        if let (Some(origin), true) = (&found.origin, at.iter().any(|step| matches!(step, Step::Item(_)))) {
            let setting = Setting::new(&service, path::show(at), origin);
            return ConfigError::Conflict { setting, problem: format!("`{field}` is missing") };
        }
        // Behind `flatten`, the names of the fields are not known before.
        if at.is_empty() && keys::find(field).is_some() {
            return ConfigError::Reserved { service, key: field.to_owned() };
        }
        let key = key_in(at, field);
        let variable = variable_name(&service, &key);
        ConfigError::Missing { service, key, file: self.subject.file.to_owned(), variable }
    }

    fn unknown(&self, field: &str, known: &[&'static str], at: &[Step], found: &Located<'_>) -> ConfigError {
        let origin = match &*found.value {
            Value::Table(table) => table.get(field).map(|node| node.origin.clone()),
            _ => None,
        };
        let origin = origin.or_else(|| found.origin.cloned());
        let origin = origin.unwrap_or_else(|| Origin::new(Layer::Default, self.subject.file));
        let hint = if at.is_empty() { hint(field, known) } else { nested_hint(field, known) };
        ConfigError::UnknownKey { setting: Setting::new(self.subject.service, key_in(at, field), &origin), hint }
    }

    /// Describes a key that no field reads, if the names of the fields are not known.
    pub(super) fn unread(&self, at: &[Step]) -> ConfigError {
        let found = path::find(self.settings, at);
        let origin = found.origin.cloned().unwrap_or_else(|| Origin::new(Layer::Default, self.subject.file));
        // If the first item of a list is not read, the list is not.
        let at = at.split(|step| matches!(step, Step::Item(_))).next().unwrap_or_default();
        let key = path::show(at);
        let hint = match keys::suggest(&key) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "no field of the service's settings has this name".to_owned(),
        };
        ConfigError::UnknownKey { setting: Setting::new(self.subject.service, key, &origin), hint }
    }

    /// The value that serde found.
    fn unexpected(&self, unexpected: &str, found: &Located<'_>) -> String {
        match unexpected {
            "map" | "sequence" => found.value.kind().to_owned(),
            "1 items" => "1 item".to_owned(),
            other => self.clean(other),
        }
    }

    /// Removes the secrets from a message of other code.
    fn clean(&self, text: &str) -> String {
        // The longest first: one secret can contain another.
        let mut secrets: Vec<&String> = self.secrets.iter().filter(|secret| !secret.is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut text = text.to_owned();
        for secret in secrets {
            text = text.replace(secret.as_str(), REDACTED);
            // As it is in a quoted string.
            text = text.replace(secret.escape_debug().to_string().as_str(), REDACTED);
        }
        text
    }
}

fn key_in(table: &[Step], field: &str) -> String {
    if table.is_empty() { field.to_owned() } else { format!("{}.{field}", path::show(table)) }
}

/// The correction of an unknown key.
pub(in crate::config) fn hint(key: &str, fields: &[&'static str]) -> String {
    let near = nearest(key, fields.iter().copied().chain(keys::options().map(|key| key.name)));
    match near.or_else(|| keys::suggest(key)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if fields.is_empty() => "the service has no settings; to give it some, add a parameter to `configure`: \
                                      `fn configure(cx: &Context, settings: Settings)`"
            .to_owned(),
        None => {
            let names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            format!("the settings of this service are {}", names.join(", "))
        }
    }
}

fn nested_hint(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {}", one_of(known.iter().copied())),
    }
}
