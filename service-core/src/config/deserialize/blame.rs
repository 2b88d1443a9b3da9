//! The path of an error about a buffered value: serde does not know it, so it is found by further attempts.

use serde::de::Unexpected;

use super::errors::{Error, Problem, Request};
use super::path::{self, Path, Step};
use super::search::{Probe, Search};
use crate::config::layers::{Layer, Origin};
use crate::config::values::{Node, Value};

impl Search<'_> {
    /// The path of the value that an error is about. `last` is the request that was answered last.
    pub(super) fn blame(&mut self, error: &Error, last: Option<&Request>, errors: usize) -> Path {
        let at = error.path.clone().unwrap_or_default();
        let is_table = matches!(*path::find(&self.settings, &at).value, Value::Table(_) | Value::List(_));
        if !is_table {
            return at;
        }
        let blamed = match &error.problem {
            // The table is the right one if a probe at the missing key is requested.
            Problem::Missing(field) => self.find_table(&at, |search, table| {
                let insert = |table: &mut Value, probe: Node| {
                    if let Value::Table(table) = table {
                        table.insert((*field).to_owned(), probe);
                    }
                };
                search.expected_of_probe(table, insert).is_some()
            }),
            Problem::UnknownField { field, .. } => self.find_cause(&at, &error.problem, |table| {
                let Value::Table(table) = table else { return false };
                table.remove(field).is_some()
            }),
            // A table or list in the place of another type: a probe there is requested as that type.
            Problem::InvalidType { unexpected, expected } if unexpected == "map" || unexpected == "sequence" => self
                .find_table(&at, |search, table| {
                    let replace = |table: &mut Value, probe: Node| *table = probe.value;
                    search.expected_of_probe(table, replace).as_ref() == Some(expected)
                }),
            Problem::InvalidType { unexpected, .. } if unexpected.ends_with(" items") => {
                self.find_cause(&at, &error.problem, |list| {
                    let Value::List(items) = list else { return false };
                    let has_length = *unexpected == format!("{} items", items.len());
                    has_length && items.pop().is_some()
                })
            }
            // A string that is not the last value is a key.
            Problem::InvalidType { unexpected, .. }
                if unexpected.starts_with("string ") && !last.is_some_and(|last| self.quotes(unexpected, last)) =>
            {
                self.find_cause(&at, &error.problem, |table| {
                    let Value::Table(table) = table else { return false };
                    let before = table.len();
                    table.retain(|key, _| *unexpected != Unexpected::Str(key).to_string());
                    table.len() < before
                })
            }
            // With several errors, the last one is about the enum that dropped the others.
            _ if errors == 1 => last.map(|request| self.probes[request.probe].path.clone()),
            _ => None,
        };
        blamed.unwrap_or(at)
    }

    /// Puts one more probe into the settings. Returns the type that is expected of it, if it is requested.
    fn expected_of_probe(&mut self, path: &Path, put: impl FnOnce(&mut Value, Node)) -> Option<String> {
        let number = self.probes.len();
        let probe = Value::Probe { number, value: Box::new(Value::Null) };
        let probe = Node::new(probe, &Origin::new(Layer::Default, ""));
        put(path::find_mut(&mut self.settings, path)?, probe);
        self.probes.push(Probe { path: path.clone(), value: Value::Null, secret: false });
        let requests = self.attempt().record.requests;
        self.probes.truncate(number);
        self.requested.remove(&number);
        requests.into_iter().find(|request| request.probe == number).map(|request| request.expected)
    }

    /// Whether the value that the last request was answered with is the string that an error quotes.
    fn quotes(&self, unexpected: &str, last: &Request) -> bool {
        let value = path::find(&self.settings, &self.probes[last.probe].path).value;
        matches!(&*value, Value::Str(text) | Value::Text { text, .. } if Unexpected::Str(text).to_string() == unexpected)
    }

    /// The first table or list in which a change removes the cause of an error. The change returns whether it applies.
    fn find_cause(&mut self, at: &Path, problem: &Problem, change: impl Fn(&mut Value) -> bool) -> Option<Path> {
        self.find_table(at, |search, table| {
            path::find_mut(&mut search.settings, table).is_some_and(&change)
                && !search.attempt().result.is_err_and(|error| error.problem == *problem)
        })
    }

    /// The first table or list below a path for which a test succeeds. The test may change the settings; the change is
    /// undone.
    fn find_table(&mut self, at: &Path, mut is_it: impl FnMut(&mut Self, &Path) -> bool) -> Option<Path> {
        let mut tables = Vec::new();
        find_tables(&path::find(&self.settings, at).value, at, &mut tables);
        tables.into_iter().find(|table| {
            let settings = self.settings.clone();
            let is_it = is_it(self, table);
            self.settings = settings;
            is_it
        })
    }
}

/// Collects all tables and lists in a value, the inner ones first.
fn find_tables(value: &Value, path: &Path, found: &mut Vec<Path>) {
    let mut below = |node: &Node, step: Step| find_tables(&node.value, &[path.as_slice(), &[step]].concat(), found);
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, node)| below(node, Step::Key(key.clone())));
            found.push(path.clone());
        }
        Value::List(items) => {
            items.iter().enumerate().for_each(|(n, item)| below(item, Step::Item(n)));
            found.push(path.clone());
        }
        _ => {}
    }
}
