//! [`Sources`]: the configuration of all services, read once.
//!
//! The environment, the working directory and the settings of the builder are passed in as [`Inputs`], so that tests
//! pass their own.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::descriptor::ServiceDescriptor;
use super::environment::Env;
use super::errors::{ConfigError, ConfigErrors};
use super::keys::Key;
use super::layers::{FOR_ALL, Layer, Origin, Precedence, Scope};
use super::merge::merge;
use super::resolved::Resolved;
use super::resolver::{KeptValues, Resolver, Row, Target};
use super::values::{self, Node, SettingValue, Table, Value};
use super::{keys, toml};
use crate::config::options::{CodeEntry, ServiceOptions};
use crate::service::literal::Literal;
use crate::suggest::nearest;
use crate::sync::Mutex;

/// The inputs of the configuration. By default there are none, as in tests.
#[derive(Clone, Default)]
pub(crate) struct Inputs {
    /// The file that `config_file` of the builder names; it must exist.
    pub(crate) file: Option<PathBuf>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The directory of `services.toml`, and the start of relative paths; empty is the working directory. `None`: no
    /// file is read unless it is named.
    pub(crate) directory: Option<PathBuf>,
    /// `.set("email_sender.batch_size", 10)`.
    pub(crate) sets: Vec<(String, SettingValue)>,
    /// `.set("batch_size", 10)` of the test bed, for every service.
    pub(crate) sets_for_all: Vec<(String, SettingValue)>,
}

impl Inputs {
    /// The environment and the working directory of the process.
    pub(crate) fn of_process() -> Self {
        let environment = std::env::vars_os().collect();
        Self { environment, directory: Some(PathBuf::new()), ..Self::default() }
    }
}

/// The configuration of all services.
pub(crate) struct Sources {
    /// To read the file again.
    inputs: Inputs,
    env: Env,
    /// The name of the file, for messages, also if it does not exist.
    pub(crate) file_name: String,
    pub(crate) file_exists: bool,
    /// `[defaults]` of each place, without errors.
    defaults: Vec<(Precedence, Table)>,
    sections: BTreeMap<String, Vec<(Precedence, Table)>>,
    for_all: Table,
    errors: Vec<ConfigError>,
    /// Services that no layer names share one resolution, by descriptor.
    shared: Mutex<HashMap<(usize, bool), Arc<Resolved>>>,
}

impl Sources {
    /// Reads the file and the environment. The errors are in [`errors`](Self::errors).
    pub(crate) fn load(inputs: Inputs) -> Self {
        let kept = inputs.clone();
        let env = Env::new(inputs.environment);
        let (file_name, file) = read_file(inputs.file, inputs.directory, &env);
        let (file, errors) = match file {
            Ok(file) => (file, Vec::new()),
            Err(errors) => (None, errors),
        };
        let file_exists = file.is_some() || !errors.is_empty();
        let file = file.unwrap_or_default();
        let mut sources = Self {
            inputs: kept,
            env,
            file_name,
            file_exists,
            defaults: Vec::new(),
            sections: BTreeMap::new(),
            for_all: Table::new(),
            errors,
            shared: Mutex::default(),
        };
        sources.add(file.sections, Precedence::DefaultsFile, Precedence::File);
        let (sections, errors) = sources.env.sections();
        sources.errors.extend(errors);
        sources.add(sections, Precedence::DefaultsEnvironment, Precedence::Environment);
        let sections = sources.sets(inputs.sets);
        sources.add(sections, Precedence::DefaultsSet, Precedence::Set);
        sources.sets_for_all(inputs.sets_for_all);
        sources.check_defaults();
        sources
    }

    /// Reads the file again. The environment is that of the start. A file that was there at the start must still exist.
    pub(crate) fn load_again(&self) -> Self {
        let mut sources = Self::load(self.inputs.clone());
        if self.file_exists && !sources.file_exists {
            let problem = "the file does not exist any more".to_owned();
            sources.errors.push(ConfigError::File { file: sources.file_name.clone(), problem });
        }
        sources
    }

    fn add(&mut self, sections: BTreeMap<String, Table>, defaults: Precedence, own: Precedence) {
        for (section, table) in sections {
            match section.as_str() {
                "defaults" => self.defaults.push((defaults, table)),
                _ => self.sections.entry(section).or_default().push((own, table)),
            }
        }
    }

    fn sets(&mut self, sets: Vec<(String, SettingValue)>) -> BTreeMap<String, Table> {
        let mut sections = BTreeMap::<String, Table>::new();
        for (name, value) in sets {
            let (section, path) = match name.split_once('.') {
                Some((section, path)) if !section.is_empty() && path.split('.').all(|part| !part.is_empty()) => {
                    (section, path)
                }
                _ => {
                    let problem = "name the service and the key, as in `email_sender.batch_size`".to_owned();
                    self.errors.push(ConfigError::Name { name: format!(".set(\"{name}\", …)"), problem });
                    continue;
                }
            };
            let layer = if section == "defaults" { Layer::Defaults } else { Layer::Set };
            let node = Node::new(value.0, &Origin::new(layer, format!(".set(\"{name}\", …)")));
            overwrite(sections.entry(section.to_owned()).or_default(), path, node);
        }
        sections
    }

    fn sets_for_all(&mut self, sets: Vec<(String, SettingValue)>) {
        for (name, value) in sets {
            let place = format!(".set(\"{name}\", …) {FOR_ALL}");
            let node = Node::new(value.0, &Origin::new(Layer::Set, place));
            overwrite(&mut self.for_all, &name, node);
        }
    }

    /// Checks `[defaults]` once, so that its errors are not reported for every service.
    fn check_defaults(&mut self) {
        let mut resolver = Resolver::new("defaults", "defaults");
        for (precedence, table) in &self.defaults {
            resolver.layer(*precedence, table);
        }
        let errors = resolver.finish_defaults();
        if !errors.is_empty() {
            self.defaults.clear();
            self.errors.extend(errors);
        }
    }

    /// The errors that do not belong to one service: in the file as a whole, in `[defaults]`, in names of environment
    /// variables and in keys passed to `.set`.
    pub(crate) fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// Warnings about sections, environment variables and settings of unknown services, each with the nearest known
    /// name.
    pub(crate) fn unknown_sections<'a>(&self, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let known: std::collections::BTreeSet<&str> = known.into_iter().collect();
        let unknown = self.sections.iter().filter(|(section, _)| !known.contains(section.as_str()));
        unknown
            .map(|(section, tables)| {
                let node = tables.iter().find_map(|(_, table)| table.values().next());
                let place = node.map_or(self.file_name.as_str(), |node| node.origin.place.as_str());
                let hint = match nearest(section, known.iter().copied()) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => String::new(),
                };
                format!("no service has the id `{section}` yet, so its settings ({place}) have no effect{hint}")
            })
            .collect()
    }

    /// A row of a table, as a part of its layer. Strings of `service_config` can have `${VARIABLE}`. Those of an
    /// operator cannot, or the admin port would give access to the environment.
    pub(crate) fn row(&self, layer: Layer, scope: Scope, key: &str, json: serde_json::Value, place: &str) -> Row {
        let mut value = Value::from(json);
        if layer == Layer::Table {
            self.expand(&mut value);
        }
        let own = match layer {
            Layer::Table => Precedence::Table,
            Layer::Override => Precedence::Override,
            _ => Precedence::Running,
        };
        let (precedence, layer) = match scope {
            Scope::Defaults => (Precedence::DefaultsTable, Layer::Defaults),
            Scope::Type => (own.of_type(), layer),
            Scope::Service => (own, layer),
        };
        Row { precedence, key: key.to_owned(), value, origin: Origin::new(layer, place) }
    }

    fn expand(&self, value: &mut Value) {
        match value {
            Value::Str(text) => *value = self.env.expand(text),
            Value::List(items) => items.iter_mut().for_each(|item| self.expand(&mut item.value)),
            Value::Table(table) => table.values_mut().for_each(|item| self.expand(&mut item.value)),
            _ => {}
        }
    }

    /// Merges all layers into the options and settings of one service. `rows` are the layers that can change while the
    /// program runs: the two tables, and what the service itself set. Of two rows of one place the later wins. A wrong
    /// row is left out and reported in [`Resolved::rejected`].
    ///
    /// # Errors
    /// All errors in the options, and unknown keys. The service's own settings are checked when they are read.
    pub(crate) fn resolve(&self, target: Target<'_>, rows: &[Row]) -> Result<Arc<Resolved>, ConfigErrors> {
        let is_own = target.code.is_some() || target.kept.is_some() || !rows.is_empty();
        if is_own || self.sections.contains_key(target.id) {
            return self.resolve_own(target, rows).map(Arc::new);
        }
        let key = (std::ptr::from_ref(target.descriptor).addr(), target.undeclared);
        let mut shared = self.shared.lock();
        if let Some(resolved) = shared.get(&key) {
            return Ok(Arc::clone(resolved));
        }
        let resolved = Arc::new(self.resolve_own(target, &[])?);
        // A warning names its service, so it cannot be shared.
        if resolved.warnings.is_empty() {
            shared.insert(key, Arc::clone(&resolved));
        }
        Ok(resolved)
    }

    /// Whether a layer sets this key for a service. The tables are not read.
    pub(crate) fn sets_key(&self, target: Target<'_>, key: &str) -> bool {
        let Target { id, descriptor, code, .. } = target;
        let section =
            |name: &str| self.sections.get(name).into_iter().flatten().any(|(_, table)| table.contains_key(key));
        descriptor.attributes.iter().any(|(name, _)| *name == key)
            || code.is_some_and(|code| code.sets(key))
            || self.for_all.contains_key(key)
            || section(descriptor.id)
            || section(id)
    }

    /// Returns the values of the file for the keys that are read only at the start.
    pub(crate) fn read_at_start(&self, target: Target<'_>) -> KeptValues {
        let sections =
            [target.descriptor.id, target.id].into_iter().filter_map(|name| self.sections.get(name)).flatten();
        if !self.defaults.iter().chain(sections).any(|(_, table)| table.keys().any(|key| is_read_at_start(key))) {
            return KeptValues(Vec::new());
        }
        let layers = self.layers(Target { kept: None, ..target }, &[]).into_iter();
        let of_file = layers.filter(|(precedence, _)| precedence.is_file()).map(|(precedence, table)| {
            let kept = table.iter().filter(|(key, _)| is_read_at_start(key));
            (precedence, kept.map(|(key, node)| (key.clone(), node.clone())).collect::<Table>())
        });
        KeptValues(of_file.filter(|(_, table)| !table.is_empty()).collect())
    }

    fn resolve_own(&self, target: Target<'_>, rows: &[Row]) -> Result<Resolved, ConfigErrors> {
        let (mut rows, mut rejected): (Vec<&Row>, _) = (rows.iter().collect(), Vec::new());
        loop {
            let mut resolver = Resolver::new(target.id, target.descriptor.id);
            for (precedence, table) in self.layers(target, &rows) {
                resolver.layer(precedence, &table);
            }
            let errors = match resolver.finish(target, &self.file_name) {
                Ok(resolved) => return Ok(Resolved { rejected, ..resolved }),
                Err(errors) => errors,
            };
            // Each pass leaves out at least one row, so the loop ends.
            let (of_rows, others): (Vec<_>, Vec<_>) =
                errors.into_iter().partition(|error| rows.iter().any(|row| row.is_meant_by(error)));
            if of_rows.is_empty() {
                return Err(ConfigErrors(others));
            }
            rows.retain(|row| !of_rows.iter().any(|error| row.is_meant_by(error)));
            rejected.extend(of_rows);
        }
    }

    /// All tables with values for a service, in the order of their precedence.
    fn layers<'a>(&'a self, target: Target<'_>, rows: &[&Row]) -> Vec<(Precedence, Cow<'a, Table>)> {
        let Target { id, descriptor, code, .. } = target;
        let borrowed = |(precedence, table): &'a (Precedence, Table)| (*precedence, Cow::Borrowed(table));
        let mut layers: Vec<_> = self.defaults.iter().map(borrowed).collect();
        layers.push((Precedence::Attribute, Cow::Owned(attribute(descriptor))));
        layers.extend(code.into_iter().flat_map(code_tables).map(|table| (Precedence::Code, Cow::Owned(table))));
        if descriptor.id != id {
            layers.extend(self.sections.get(descriptor.id).into_iter().flatten().map(|(precedence, table)| {
                match precedence {
                    Precedence::File => (Precedence::TypeFile, Cow::Owned(in_layer(table, Layer::Type))),
                    other => (other.of_type(), Cow::Borrowed(table)),
                }
            }));
        }
        layers.extend(self.sections.get(id).into_iter().flatten().map(borrowed));
        if let Some(KeptValues(kept)) = target.kept {
            for (precedence, table) in &mut layers {
                if precedence.is_file() && table.keys().any(|key| is_read_at_start(key)) {
                    table.to_mut().retain(|key, _| !is_read_at_start(key));
                }
            }
            layers.extend(kept.iter().map(|(precedence, table)| (*precedence, Cow::Owned(table.clone()))));
        }
        layers.push((Precedence::SetForAll, Cow::Borrowed(&self.for_all)));
        let mut of_rows = BTreeMap::<Precedence, Table>::new();
        for row in rows {
            let table = of_rows.entry(row.precedence).or_default();
            overwrite(table, &row.key, Node::new(row.value.clone(), &row.origin));
        }
        layers.extend(of_rows.into_iter().map(|(precedence, table)| (precedence, Cow::Owned(table))));
        // The sort is stable: the options of code stay in their order.
        layers.sort_by_key(|(precedence, _)| *precedence);
        layers
    }
}

fn is_read_at_start(key: &str) -> bool {
    keys::find(key).is_some_and(Key::is_read_at_start)
}

fn attribute(descriptor: &ServiceDescriptor) -> Table {
    let origin = Origin::new(Layer::Attribute, format!("attribute at {}:{}", descriptor.file, descriptor.line));
    let options = descriptor.attributes.iter().filter(|(key, _)| !keys::is_attribute_only(key));
    let value = |literal: &Literal| match literal {
        Literal::Int(value) => Value::Int((*value).into()),
        Literal::Float(value) => Value::Float(*value),
        Literal::Str(value) => Value::Str((*value).to_owned()),
        Literal::Bool(value) => Value::Bool(*value),
        Literal::List(items) => values::list(items.iter().map(|item| Value::Str((*item).to_owned()))),
    };
    options.map(|(key, literal)| ((*key).to_owned(), Node::new(value(literal), &origin))).collect()
}

impl ServiceOptions {
    /// Adds other options, which override these. As in a later layer, their schedule replaces one of another kind.
    pub(crate) fn and(mut self, others: Self) -> Self {
        let sets_schedule =
            |key: &str, value: &Value| keys::find(key).is_some_and(Key::is_schedule) && *value != Value::Bool(false);
        if others.entries.iter().any(|entry| sets_schedule(&entry.key, &entry.value)) {
            let is_replaced = |key: &str| {
                keys::find(key).is_some_and(|key| {
                    key.needs_schedule().is_some_and(|needed| !others.sets(needed)) || key.is_schedule()
                })
            };
            self.entries.retain(|entry| !is_replaced(&entry.key));
        }
        let calls = self.entries.last().map_or(0, |last| last.call + 1);
        self.entries.extend(others.entries.into_iter().map(|entry| CodeEntry { call: calls + entry.call, ..entry }));
        if others.requester_id.is_some() {
            (self.requester_id, self.location) = (others.requester_id, others.location);
        }
        self
    }
}

/// The options of code, a table for each call of `new`: those for one service are later than those for its type.
fn code_tables(code: &ServiceOptions) -> impl Iterator<Item = Table> {
    code.entries.chunk_by(|one, next| one.call == next.call).map(|entries| {
        let mut table = Table::new();
        for CodeEntry { key, value, location, .. } in entries {
            overwrite(&mut table, key, Node::new(value.clone(), &ServiceOptions::origin_at(location)));
        }
        table
    })
}

/// A copy of the table with its values in another layer.
fn in_layer(table: &Table, layer: Layer) -> Table {
    let origin = |origin: &Origin| Origin::new(layer, origin.place.as_str());
    table.iter().map(|(key, node)| (key.clone(), node.with_origins(&origin))).collect()
}

/// Sets the value at a path of keys (`smtp.port`), in place of the value there.
fn overwrite(table: &mut Table, path: &str, node: Node) {
    let mut upper = Table::new();
    // Inserting into an empty table cannot fail.
    let _ = values::insert(&mut upper, &path.split('.').collect::<Vec<_>>(), node);
    merge(table, upper);
}

/// The name of the file for messages, and its content if it exists.
fn read_file(
    named: Option<PathBuf>,
    directory: Option<PathBuf>,
    env: &Env,
) -> (String, Result<Option<toml::File>, Vec<ConfigError>>) {
    let (name, by) = match (named, env.file()) {
        (Some(name), _) => (name, "by `config_file` in the builder"),
        (None, Ok(Some(name))) => (PathBuf::from(name), "by the environment variable SERVICES_CONFIG"),
        (None, Ok(None)) => (PathBuf::from("services.toml"), ""),
        (None, Err(error)) => return ("services.toml".to_owned(), Err(vec![error])),
    };
    let shown = name.display().to_string();
    if by.is_empty() && directory.is_none() {
        return (shown, Ok(None));
    }
    let problem = |problem: String| Err(vec![ConfigError::File { file: shown.clone(), problem }]);
    let file = match std::fs::read_to_string(directory.unwrap_or_default().join(&name)) {
        Ok(text) => toml::parse(&name, text.strip_prefix('\u{feff}').unwrap_or(&text), env).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match by {
            "" => Ok(None),
            by => problem(format!("the file does not exist; it is named {by}")),
        },
        Err(error) => problem(format!("cannot be read: {error}")),
    };
    (shown, file)
}
