//! Which value an error is about that serde made without a path, as it had held the value back. Found out by trying, too.

use super::errors::{Asked, Error, Kind};
use super::path::{self, Path, Step};
use super::search::{Probe, Search};
use crate::config::layers::{Layer, Origin};
use crate::config::values::{Node, Value};

impl Search<'_> {
    /// The path of what an error is about: `last` is the value that was given last.
    pub(super) fn blame(&mut self, error: &Error, last: Option<&Asked>, errors: usize) -> Path {
        let at = error.path.clone().unwrap_or_default();
        let is_table = matches!(*path::find(&self.settings, &at).value, Value::Table(_) | Value::List(_));
        if !is_table {
            return at;
        }
        let blamed = match &error.kind {
            // A probe in the right table is asked for.
            Kind::Missing(field) => self.find_table(&at, |search, table| {
                let insert = |table: &mut Value, probe: Node| {
                    if let Value::Table(table) = table {
                        table.insert((*field).to_owned(), probe);
                    }
                };
                search.expected_of_probe(table, insert).is_some()
            }),
            Kind::UnknownField { field, .. } => self.find_table(&at, |search, table| {
                let Some(Value::Table(table)) = path::find_mut(&mut search.settings, table) else { return false };
                let stays = |kind: &Kind| matches!(kind, Kind::UnknownField { field: other, .. } if other == field);
                table.remove(field).is_some() && !search.attempt().result.is_err_and(|error| stays(&error.kind))
            }),
            // A table or list where something else is asked for.
            Kind::InvalidType { unexpected, expected } if unexpected == "map" || unexpected == "sequence" => self
                .find_table(&at, |search, table| {
                    let replace = |table: &mut Value, probe: Node| *table = probe.value;
                    search.expected_of_probe(table, replace).as_ref() == Some(expected)
                }),
            // Of several errors, the last is that of whoever dropped the others.
            _ if errors == 1 => last.map(|asked| self.probes[asked.probe].path.clone()),
            _ => None,
        };
        blamed.unwrap_or(at)
    }

    /// What is expected of one more probe, if it is asked for.
    fn expected_of_probe(&mut self, path: &Path, put: impl FnOnce(&mut Value, Node)) -> Option<String> {
        let number = self.probes.len();
        let probe = Value::Probe { number, value: Box::new(Value::Null) };
        let probe = Node::new(probe, &Origin::new(Layer::Default, ""));
        put(path::find_mut(&mut self.settings, path)?, probe);
        self.probes.push(Probe { path: path.clone(), value: Value::Null, secret: false });
        let asked = self.attempt().record.asked;
        self.probes.truncate(number);
        self.asked.remove(&number);
        asked.into_iter().find(|asked| asked.probe == number).map(|asked| asked.expected)
    }

    /// The first table or list below a path for which a change is the right one. Nothing stays changed.
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

/// All tables and lists in a value, the inner first.
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
