//! `services.toml`: its sections, each value with its line.
//!
//! The full error text of the parser quotes the line, which can contain a secret. Only its message and the line number
//! are used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::toml::de::{DeTable, DeValue};

use super::environment::Env;
use super::errors::ConfigError;
use super::layers::{Layer, Origin};
use super::values::{Node, Table, Value};

/// The sections of a file, including `defaults`.
#[derive(Default)]
pub(crate) struct File {
    pub(crate) sections: BTreeMap<String, Table>,
}

/// Reads the text of a file, and replaces each `${…}` from `env`.
pub(crate) fn parse(path: &Path, text: &str, env: &Env) -> Result<File, Vec<ConfigError>> {
    let reader = TomlReader { name: path.display().to_string(), starts: line_starts(text), env: Some(env) };
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<_> = errors
        .into_iter()
        .map(|error| reader.problem(error.span().map_or(0, |span| span.start), error.message().to_owned()))
        .collect();
    let mut file = File::default();
    if problems.is_empty() {
        for (key, value) in document.into_inner() {
            let start = key.span().start;
            let name = key.into_inner().into_owned();
            match value.into_inner() {
                DeValue::Table(table) => {
                    file.sections.insert(name.clone(), reader.table(table, section_layer(&name)));
                }
                DeValue::Array(items) if items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_))) => {
                    let problem = format!("`{name}` is a list of sections: write [{name}] once, with single brackets");
                    problems.push(reader.problem(start, problem));
                }
                _ => problems.push(reader.problem(
                    start,
                    format!(
                        "`{name}` is outside of any section: move it into [defaults] or into the section of a service"
                    ),
                )),
            }
        }
    }
    if problems.is_empty() { Ok(file) } else { Err(problems) }
}

fn section_layer(section: &str) -> Layer {
    if section == "defaults" { Layer::Defaults } else { Layer::File }
}

/// Parses text from the environment as a TOML value. `${…}` is not replaced there.
pub(crate) fn parse_value(text: &str) -> Option<Value> {
    let value = DeValue::parse(text.trim()).ok()?.into_inner();
    let reader = TomlReader { name: String::new(), starts: vec![0], env: None };
    Some(reader.node(value, 0, Layer::Environment).value)
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

struct TomlReader<'a> {
    name: String,
    starts: Vec<usize>,
    /// `None`: no `${…}` is replaced.
    env: Option<&'a Env>,
}

impl TomlReader<'_> {
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    fn problem(&self, offset: usize, problem: String) -> ConfigError {
        ConfigError::File { file: format!("{}:{}", self.name, self.line(offset)), problem }
    }

    fn origin(&self, offset: usize, layer: Layer) -> Arc<Origin> {
        Origin::new(layer, format!("{}:{}", self.name, self.line(offset)))
    }

    fn table(&self, table: DeTable<'_>, layer: Layer) -> Table {
        table
            .into_iter()
            .map(|(key, value)| {
                let start = key.span().start;
                (key.into_inner().into_owned(), self.node(value.into_inner(), start, layer))
            })
            .collect()
    }

    fn node(&self, value: DeValue<'_>, start: usize, layer: Layer) -> Node {
        let value = match value {
            DeValue::String(text) => match self.env {
                Some(env) => env.expand(&text),
                None => Value::Str(text.into_owned()),
            },
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Str(number.to_string()),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => Value::Str(number.to_string()),
            },
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(time) => Value::Str(time.to_string()),
            DeValue::Array(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| {
                        let start = item.span().start;
                        self.node(item.into_inner(), start, layer)
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table, layer)),
        };
        Node { value, origin: self.origin(start, layer) }
    }
}
