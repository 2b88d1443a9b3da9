//! From layers to one service's [`Options`], with where each came from.
//!
//! The tricky part is options that hang together. Of `interval`, `delay` and `cron` the highest layer's wins and stands
//! for all of them; what only goes with another schedule (`timezone`, `catch_up`) or with `restart` is an error where
//! the same layer or a later one says it, and silently out of use where it belonged to what a later layer replaced.
//! In `[defaults]` it is never an error: it is meant for those that it fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::errors::{ConfigError, Setting};
use super::keys::{self, Parsed};
use super::layers::{Layer, Origin};
use super::settings::Settings;
use super::values::{self, Node, Table, Value, is_secret};
use crate::config::options::{Options, Restart, ServiceOptions};
use crate::humanize;
use crate::runtime::lifecycle::ServiceDescriptor;
use crate::schedule::cron::Mistake;
use crate::schedule::{CatchUp, CronSchedule, Schedule};
use crate::service::literal::Literal;
use crate::suggest::{distance, nearest};

/// The order of the layers; a layer that can be said in several ways has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precedence {
    Attribute,
    Code,
    DefaultsFile,
    DefaultsEnvironment,
    DefaultsSet,
    File,
    Environment,
    Table,
    Override,
    SetForAll,
    Set,
    Running,
}

/// How the place of a value ends that is set for every service at once.
pub(super) const FOR_ALL: &str = "for every service";

/// One row of a layer that is not known at start. The key may have dots.
pub(crate) struct Row {
    pub(crate) layer: Layer,
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) place: String,
}

impl Row {
    /// Whether an error is about this row.
    pub(super) fn is_meant_by(&self, error: &ConfigError) -> bool {
        let below = |key: &str| self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        error.setting().is_some_and(|setting| setting.layer == self.layer && below(&setting.key))
    }
}

/// Where one option's value came from, and what it hides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Provenance {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) layer: Layer,
    pub(crate) place: String,
    /// Values of lower layers, highest first. Where a schedule replaced another, of another key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) shadowed: Vec<Provenance>,
}

/// One service's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) options: Arc<Options>,
    /// Every option that some layer set, in the order of the contract's table.
    pub(crate) provenance: Vec<Provenance>,
    /// The service's own.
    pub(crate) settings: Settings,
    /// Rows that were left out, and why.
    pub(crate) rejected: Vec<ConfigError>,
    /// What is allowed, and probably not meant.
    pub(crate) warnings: Vec<String>,
}

impl Resolved {
    /// Every option in effect, in the order of the contract's table, with where it came from, for `explain`. `now` are
    /// the options as they are: where they are not what the layers say, the service itself changed them.
    pub(crate) fn explain(&self, now: &Options) -> Vec<Provenance> {
        const SCHEDULES: [&str; 3] = ["interval", "delay", "cron"];
        let of = |key: &str| {
            let same = |set: &&Provenance| set.key == key || (SCHEDULES.contains(&key) && SCHEDULES.contains(&set.key));
            self.provenance.iter().find(same)
        };
        let tell = |key: &'static str| {
            let value = keys::get(now, key)?.show();
            let at_start = keys::get(&self.options, key).map(|parsed| parsed.show());
            let set = of(key);
            if at_start.as_ref() == Some(&value) {
                let (layer, place, shadowed) = (Layer::Default, Layer::Default.to_string(), Vec::new());
                return Some(set.cloned().unwrap_or(Provenance { key, value, layer, place, shadowed }));
            }
            let below = set.map(|set| (Provenance { shadowed: Vec::new(), ..set.clone() }, set.shadowed.clone()));
            let shadowed = below.into_iter().flat_map(|(set, rest)| std::iter::once(set).chain(rest)).collect();
            Some(Provenance { key, value, layer: Layer::Running, place: Layer::Running.to_string(), shadowed })
        };
        keys::option_names().filter_map(tell).collect()
    }
}

struct Entry {
    precedence: Precedence,
    origin: Arc<Origin>,
    shown: String,
    /// An error only where the value is used: `${…}` of a variable that is not set.
    parsed: Result<Parsed, ConfigError>,
}

/// One try to make the options of one service.
pub(super) struct Resolver<'a> {
    id: &'a str,
    /// By key, lowest layer first.
    options: BTreeMap<&'static str, Vec<Entry>>,
    own: Table,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(id: &'a str) -> Self {
        Self { id, options: BTreeMap::new(), own: Table::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn attribute(&mut self, descriptor: &ServiceDescriptor) {
        let place = format!("attribute at {}:{}", descriptor.file, descriptor.line);
        let origin = Origin::new(Layer::Attribute, place);
        for (key, literal) in descriptor.attributes.iter().filter(|(key, _)| !keys::is_attribute_only(key)) {
            let value = match literal {
                Literal::Int(value) => Value::Int((*value).into()),
                Literal::Float(value) => Value::Float(*value),
                Literal::Str(value) => Value::Str((*value).to_owned()),
                Literal::Bool(value) => Value::Bool(*value),
                Literal::List(items) => values::list(items.iter().map(|item| Value::Str((*item).to_owned()))),
            };
            self.set(Precedence::Attribute, key, &Node::new(value, &origin));
        }
    }

    pub(super) fn code(&mut self, code: &ServiceOptions) {
        let place = format!("ServiceOptions at {}:{}", code.location.file(), code.location.line());
        let origin = Origin::new(Layer::Code, place);
        for (key, value) in &code.entries {
            self.set(Precedence::Code, key, &Node::new(value.clone(), &origin));
        }
    }

    pub(super) fn layer(&mut self, precedence: Precedence, table: &Table) {
        for (key, node) in table {
            self.set(precedence, key, node);
        }
    }

    pub(super) fn rows(&mut self, layer: Layer, rows: &[&Row]) {
        let precedence = match layer {
            Layer::Table => Precedence::Table,
            Layer::Override => Precedence::Override,
            _ => Precedence::Running,
        };
        for row in rows.iter().filter(|row| row.layer == layer) {
            let node = Node::new(row.value.clone(), &Origin::new(layer, row.place.clone()));
            match row.key.split_once('.') {
                None => self.set(precedence, &row.key, &node),
                Some((key, rest)) => {
                    let mut table = Table::new();
                    let origin = Arc::clone(&node.origin);
                    // An empty table has nothing that could be in the way.
                    let _ = values::insert(&mut table, &rest.split('.').collect::<Vec<_>>(), node);
                    self.set(precedence, key, &Node { value: Value::Table(table), origin });
                }
            }
        }
    }

    fn set(&mut self, precedence: Precedence, key: &str, node: &Node) {
        let setting = || Setting::new(self.id, key, &node.origin);
        let is_default = (Precedence::DefaultsFile..=Precedence::DefaultsSet).contains(&precedence);
        let Some((name, read)) = keys::read(key, &node.value) else {
            if keys::is_attribute_only(key) {
                let problem = "only `#[service(…)]` can have it".to_owned();
                self.errors.push(ConfigError::Conflict { setting: setting(), problem });
            } else if is_default {
                let hint = match nearest(key, keys::option_names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`[defaults]` holds keys of `#[service]` only".to_owned(),
                };
                self.errors.push(ConfigError::UnknownKey { setting: setting(), hint });
            } else {
                values::merge(&mut self.own, Table::from([(key.to_owned(), node.clone())]));
            }
            return;
        };
        if is_default && name == "depends_on" {
            let problem = "belongs to one service, put it into its section".to_owned();
            self.errors.push(ConfigError::Conflict { setting: setting(), problem });
            return;
        }
        let parsed = match (broken(&node.value), read) {
            (Some((variable, why)), _) => Err(ConfigError::Variable {
                setting: setting(),
                variable: variable.to_owned(),
                problem: why.to_owned(),
            }),
            (None, Ok(parsed)) => Ok(parsed),
            (None, Err(expected)) => {
                let found = node.value.show(is_secret(key));
                self.errors.push(ConfigError::Value { setting: setting(), found, expected: expected.to_owned() });
                return;
            }
        };
        let shown = match (&node.value, &parsed) {
            (Value::Text { secret: true, .. }, _) | (_, Err(_)) => node.value.show(false),
            (_, Ok(parsed)) => parsed.show(),
        };
        let entries = self.options.entry(name).or_default();
        // Of one layer the later word counts; it hides nothing of another layer.
        entries.retain(|entry| entry.precedence != precedence);
        entries.push(Entry { precedence, origin: Arc::clone(&node.origin), shown, parsed });
    }

    fn top(&self, key: &str) -> Option<&Entry> {
        self.options.get(key)?.last()
    }

    /// Only the errors: of `[defaults]`, which is looked at once for all services.
    pub(super) fn finish_defaults(mut self) -> Vec<ConfigError> {
        let unused = self.schedule();
        if let Some(schedule) = self.make_schedule(&unused) {
            self.check_cron(&schedule);
        }
        let broken = self.options.values().flatten().filter_map(|entry| entry.parsed.as_ref().err().cloned());
        self.errors.extend(broken);
        self.errors
    }

    pub(super) fn finish(
        mut self,
        descriptor: Option<&ServiceDescriptor>,
        code: Option<&ServiceOptions>,
        file: &str,
    ) -> Result<Resolved, Vec<ConfigError>> {
        self.check_own(
            descriptor.and_then(|descriptor| descriptor.settings.as_ref()).and_then(|settings| (settings.fields)()),
        );
        let mut options =
            Options { requester_id: code.and_then(|code| code.requester_id.clone()), ..Options::default() };
        let mut unused: Vec<&'static str> = self.schedule();
        if let Some(schedule) = self.make_schedule(&unused) {
            self.check_cron(&schedule);
            options.schedule = schedule;
        }
        unused.extend(self.restart(&mut options));
        let mut broken = Vec::new();
        for (key, entries) in self.options.iter().filter(|(key, _)| !unused.contains(key)) {
            match entries.last().map(|entry| &entry.parsed) {
                Some(Ok(parsed)) => keys::put(&mut options, key, parsed.clone()),
                Some(Err(error)) => broken.push(error.clone()),
                None => {}
            }
        }
        self.errors.extend(broken);
        if options.retry_delay > options.max_retry_delay {
            self.warnings.push(format!(
                "`retry_delay` of service `{}` is {}, but `max_retry_delay` cuts it to {}: raise that one too",
                self.id,
                humanize::exact(options.retry_delay),
                humanize::exact(options.max_retry_delay),
            ));
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let mut provenance = self.provenance(&unused);
        if let (Some(id), Some(code)) = (&options.requester_id, code) {
            let place = format!("ServiceOptions at {}:{}", code.location.file(), code.location.line());
            let (value, shadowed) = (id.clone(), Vec::new());
            provenance.push(Provenance { key: "requester_id", value, layer: Layer::Code, place, shadowed });
        }
        Ok(Resolved {
            options: Arc::new(options),
            provenance,
            settings: Settings::new(self.own, file),
            rejected: Vec::new(),
            warnings: self.warnings,
        })
    }

    /// Finds the schedule that counts; gives back the keys that do not. Errors: two in one layer, and what only goes
    /// with cron where there is none.
    fn schedule(&mut self) -> Vec<&'static str> {
        let mut present: Vec<(Precedence, &'static str, Arc<Origin>)> = ["interval", "delay", "cron"]
            .into_iter()
            .filter_map(|key| self.top(key).map(|entry| (entry.precedence, key, Arc::clone(&entry.origin))))
            .collect();
        present.sort_by_key(|(precedence, ..)| std::cmp::Reverse(*precedence));
        for pair in present.windows(2) {
            let ((first_precedence, first, _), (precedence, key, origin)) = (&pair[0], &pair[1]);
            if first_precedence == precedence {
                let problem = format!("`{first}` stands there too, a service has one schedule: keep one of the two");
                self.errors.push(ConfigError::Conflict { setting: Setting::new(self.id, *key, origin), problem });
            }
        }
        let winner = present.first().map(|(precedence, key, _)| (*precedence, *key));
        let mut unused: Vec<&'static str> = present.iter().skip(1).map(|(_, key, _)| *key).collect();
        if winner.is_none_or(|(_, key)| key != "cron") {
            for key in ["timezone", "catch_up"] {
                let said = match winner {
                    Some((_, schedule)) => format!("goes with `cron` only, and this service has `{schedule}`"),
                    None => "goes with `cron` only, and this service has none".to_owned(),
                };
                unused.extend(self.leave_out(key, winner.map(|(precedence, _)| precedence), said));
            }
        }
        unused
    }

    /// Marks a key as not in use; an error where it was said in the layer that decided so, or later.
    fn leave_out(&mut self, key: &'static str, decided: Option<Precedence>, problem: String) -> Option<&'static str> {
        let entry = self.top(key)?;
        let is_default = (Precedence::DefaultsFile..=Precedence::DefaultsSet).contains(&entry.precedence);
        if decided.is_none_or(|decided| entry.precedence >= decided) && !is_default {
            let setting = Setting::new(self.id, key, &entry.origin);
            self.errors.push(ConfigError::Conflict { setting, problem });
        }
        Some(key)
    }

    fn make_schedule(&self, unused: &[&'static str]) -> Option<Schedule> {
        let value = |key| self.top(key).filter(|_| !unused.contains(&key)).and_then(|entry| entry.parsed.as_ref().ok());
        match (value("interval"), value("delay"), value("cron")) {
            (Some(Parsed::Time(time)), ..) => Some(Schedule::Interval(*time)),
            (_, Some(Parsed::Time(time)), _) => Some(Schedule::Delay(*time)),
            (.., Some(Parsed::Text(expression))) => {
                let timezone = match value("timezone") {
                    Some(Parsed::Text(name)) => name.clone(),
                    _ => "UTC".to_owned(),
                };
                let catch_up = match value("catch_up") {
                    Some(Parsed::CatchUp(catch_up)) => *catch_up,
                    _ => CatchUp::None,
                };
                Some(Schedule::Cron(CronSchedule { expression: expression.clone(), timezone, catch_up }))
            }
            _ => None,
        }
    }

    /// Whether the runtime knows the cron schedule's expression and time zone.
    fn check_cron(&mut self, schedule: &Schedule) {
        let Schedule::Cron(cron) = schedule else { return };
        let Err(mistake) = crate::schedule::cron::check(cron) else { return };
        let Some(entry) = self.top(mistake.key()) else { return };
        let setting = Setting::new(self.id, mistake.key(), &entry.origin);
        self.errors.push(match mistake {
            Mistake::NoFeature => {
                ConfigError::Conflict { setting, problem: crate::schedule::cron::NO_FEATURE.to_owned() }
            }
            // What is said of a secret may hold it.
            _ if entry.shown == values::REDACTED => {
                ConfigError::Value { setting, found: entry.shown.clone(), expected: mistake.expected().to_owned() }
            }
            _ => ConfigError::Value { setting, found: format!("{:?}", entry.shown), expected: mistake.to_string() },
        });
    }

    /// Puts `restart` together; gives back the keys that are not in use.
    fn restart(&mut self, options: &mut Options) -> Vec<&'static str> {
        const PARTS: [&str; 3] = ["restart_delay", "max_restarts", "restart_window"];
        let decided = self.top("restart").map(|entry| entry.precedence);
        if !matches!(self.top("restart").map(|entry| &entry.parsed), Some(Ok(Parsed::Restart(true)) | Err(_))) {
            let problem = "goes with `restart = \"on_failure\"` only";
            return PARTS.into_iter().filter_map(|key| self.leave_out(key, decided, problem.to_owned())).collect();
        }
        let mut restart = Restart::default();
        for key in PARTS {
            match (key, self.top(key).and_then(|entry| entry.parsed.as_ref().ok())) {
                ("restart_delay", Some(Parsed::Time(time))) => restart.delay = *time,
                ("max_restarts", Some(Parsed::Count(count))) => restart.max = *count,
                ("restart_window", Some(Parsed::Time(time))) => restart.window = *time,
                _ => {}
            }
        }
        options.restart = Some(restart);
        Vec::new()
    }

    fn provenance(&self, unused: &[&'static str]) -> Vec<Provenance> {
        let schedules = ["interval", "delay", "cron"];
        let one = |key: &'static str, entry: &Entry| Provenance {
            key,
            value: entry.shown.clone(),
            layer: entry.origin.layer,
            place: entry.origin.place.clone(),
            shadowed: Vec::new(),
        };
        keys::option_names()
            .filter(|key| !unused.contains(key))
            .filter_map(|key| {
                let (last, below) = self.options.get(key)?.split_last()?;
                let mut hidden: Vec<(&'static str, &Entry)> = below.iter().map(|entry| (key, entry)).collect();
                if schedules.contains(&key) {
                    let others = unused.iter().filter(|other| schedules.contains(other));
                    hidden.extend(others.flat_map(|other| self.options[other].iter().map(|entry| (*other, entry))));
                }
                hidden.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.precedence));
                let shadowed = hidden.into_iter().map(|(key, entry)| one(key, entry)).collect();
                Some(Provenance { shadowed, ..one(key, last) })
            })
            .collect()
    }

    /// Keys that are nobody's. Where the settings' fields are not known, only what looks like a misspelt option is one.
    fn check_own(&mut self, fields: Option<&'static [&'static str]>) {
        for field in fields.into_iter().flatten().filter(|field| keys::is_attribute(field)) {
            self.errors.push(ConfigError::Reserved { service: self.id.to_owned(), key: (*field).to_owned() });
        }
        for (key, node) in &self.own {
            let setting = Setting::new(self.id, key, &node.origin);
            match fields {
                Some(fields) if is_field(key, node, fields) => {}
                // The test bed's `.set("batch_size", …)` is for whoever has it.
                Some(_) if node.origin.place.ends_with(FOR_ALL) => {}
                Some(fields) => self.errors.push(ConfigError::UnknownKey { setting, hint: hint(key, fields) }),
                None => {
                    let Some(near) = nearest(key, keys::option_names()) else { continue };
                    // Short names are near to many: `relay` is not meant as `delay`.
                    match distance(key, near) {
                        far if far == 1 && near.len() >= 6 || far == 2 && near.len() >= 7 => {
                            let hint = format!("did you mean `{near}`?");
                            self.errors.push(ConfigError::UnknownKey { setting, hint });
                        }
                        1 => self.warnings.push(format!("{setting} is taken as the service's own, not as `{near}`")),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Names of environment variables have no case, so those of fields are not compared by it.
fn is_field(key: &str, node: &Node, fields: &[&str]) -> bool {
    let from_environment = node.origin.layer == Layer::Environment;
    fields.iter().any(|field| *field == key || (from_environment && field.eq_ignore_ascii_case(key)))
}

/// What to write instead of a key that nothing reads.
pub(super) fn hint(key: &str, fields: &[&'static str]) -> String {
    match nearest(key, fields.iter().copied().chain(keys::option_names())) {
        Some(near) => format!("did you mean `{near}`?"),
        None if fields.is_empty() => "the service has no settings of its own".to_owned(),
        None => {
            let names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            format!("the service's own settings are {}", names.join(", "))
        }
    }
}

/// The first `${…}` in a value that could not be read.
fn broken(value: &Value) -> Option<(&str, &'static str)> {
    match value {
        Value::Broken { variable, why } => Some((variable, why)),
        Value::List(items) => items.iter().find_map(|item| broken(&item.value)),
        _ => None,
    }
}
