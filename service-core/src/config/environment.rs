//! The environment: `SERVICES__EMAIL_SENDER__BATCH_SIZE=10`, and `${VARIABLE}` inside strings of other layers.
//!
//! It is read once, at start, from an iterator, so that tests do not change the environment of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::errors::ConfigError;
use super::layers::{Layer, Origin};
use super::secrets::is_secret;
use super::values::{self, Node, Table, Value};

/// The prefix of all variables that set a key.
const PREFIX: &str = "SERVICES__";

/// The variable that names the file.
const FILE: &str = "SERVICES_CONFIG";
/// The problem of a variable.
const NOT_TEXT: &str = "it is not valid UTF-8";

/// The environment as it was when the program started.
#[derive(Default)]
pub(crate) struct Env {
    variables: BTreeMap<String, String>,
    not_text: BTreeSet<String>,
}

impl Env {
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut env = Self::default();
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(env.variables.insert(name, value)),
                (Ok(name), Err(_)) => drop(env.not_text.insert(name)),
                // Its `�` is in no name that is looked for.
                (Err(name), _) => drop(env.not_text.insert(name.to_string_lossy().into_owned())),
            }
        }
        env
    }

    /// The name of the file in `SERVICES_CONFIG`, if it is not empty.
    pub(crate) fn file(&self) -> Result<Option<&str>, ConfigError> {
        match self.not_text.contains(FILE) {
            true => Err(named(FILE, NOT_TEXT.to_owned())),
            false => Ok(self.variables.get(FILE).map(String::as_str).filter(|value| !value.is_empty())),
        }
    }

    /// Every `SERVICES__…` variable, by section.
    pub(crate) fn sections(&self) -> (BTreeMap<String, Table>, Vec<ConfigError>) {
        let (mut sections, mut errors) = (BTreeMap::<String, Table>::new(), Vec::new());
        for name in self.not_text.iter().filter(|name| name.starts_with(PREFIX)) {
            errors.push(named(name, NOT_TEXT.to_owned()));
        }
        for (name, text) in &self.variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let lower = rest.to_ascii_lowercase();
            let parts: Vec<&str> = lower.split("__").collect();
            let (section, path) = match parts.split_first() {
                Some((section, path)) if !path.is_empty() && parts.iter().all(|part| !part.is_empty()) => {
                    (*section, path)
                }
                _ => {
                    errors.push(named(name, format!("not the name of a setting, write {PREFIX}<SERVICE>__<KEY>")));
                    continue;
                }
            };
            let layer = if section == "defaults" { Layer::Defaults } else { Layer::Environment };
            let origin = Origin::new(layer, format!("environment variable {name}"));
            let node = Node { value: Value::Text { text: text.clone(), secret: false }, origin };
            if let Err(part) = values::insert(sections.entry(section.to_owned()).or_default(), path, node) {
                errors.push(named(name, format!("another variable sets `{part}` as well: keep one of the two")));
            }
        }
        (sections, errors)
    }

    /// Replaces every `${VARIABLE}` in a string of the file or of a table. `$${` stands for `${`.
    pub(crate) fn expand(&self, text: &str) -> Value {
        let broken = |why| Value::Broken { variable: "…".to_owned(), why };
        let (mut out, mut rest, mut replaced, mut secret) = (String::new(), text, false, false);
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some((variable, after)) = rest[at + 2..].split_once('}') else {
                return broken("its `}` is missing (`$${` stands for `${` itself)");
            };
            if !is_name(variable) {
                return broken("its content is not the name of a variable (`$${` stands for `${` itself)");
            }
            match self.read(variable) {
                Ok(value) => out.push_str(value),
                Err(why) => return Value::Broken { variable: variable.to_owned(), why },
            }
            (rest, replaced, secret) = (after, true, secret || is_secret(variable));
        }
        out.push_str(rest);
        if replaced { Value::Text { text: out, secret } } else { Value::Str(out) }
    }

    fn read(&self, variable: &str) -> Result<&str, &'static str> {
        match self.variables.get(variable) {
            Some(value) => Ok(value),
            None if self.not_text.contains(variable) => Err(NOT_TEXT),
            None => Err("the environment variable is not set"),
        }
    }
}

/// An error about a variable.
fn named(name: &str, problem: String) -> ConfigError {
    ConfigError::Name { name: format!("environment variable {name}"), problem }
}

fn is_name(variable: &str) -> bool {
    variable.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The name of the variable that sets a key of a service.
pub(crate) fn variable_name(service: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", service, key.replace('.', "__").replace('-', "_")).to_ascii_uppercase()
}
