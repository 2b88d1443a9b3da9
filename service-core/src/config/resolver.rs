//! From layers to one service's [`Options`], with where each came from.
//!
//! The tricky part is options that hang together. Of `interval`, `delay` and `cron` the highest layer's wins and stands
//! for all of them; what only goes with another schedule (`timezone`, `catch_up`) or with `restart` is an error where
//! the same layer or a later one says it, and silently out of use where it belonged to what a later layer replaced.
//! In `[defaults]` it is never an error: it is meant for those that it fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::descriptor::ServiceDescriptor;
use super::deserialize;
use super::errors::{ConfigError, Setting};
use super::keys::{self, Key, Rule};
use super::kinds::{Accepted, Kind};
use super::layers::{FOR_ALL, Layer, Origin, Precedence};
use super::secrets::{REDACTED, is_secret};
use super::settings::Settings;
use super::values::{self, Node, Table, Value};
use crate::config::options::{Options, ServiceOptions};
use crate::humanize;
use crate::schedule::Schedule;
use crate::suggest::{distance, nearest};

/// One row of a layer that is not known at start. The key may have dots.
pub(crate) struct Row {
    pub(crate) precedence: Precedence,
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) origin: Arc<Origin>,
}

impl Row {
    /// Whether an error is about this row.
    pub(super) fn is_meant_by(&self, error: &ConfigError) -> bool {
        let below = |key: &str| self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        error.setting().is_some_and(|setting| setting.place == self.origin.place && below(&setting.key))
    }
}

/// A service whose configuration is resolved.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) id: &'a str,
    pub(crate) descriptor: &'static ServiceDescriptor,
    /// What code set.
    pub(crate) code: Option<&'a ServiceOptions>,
    /// Code outside of its type may read its settings, so that their keys are not known.
    pub(crate) undeclared: bool,
}

#[cfg(test)]
impl<'a> Target<'a> {
    pub(crate) fn new(id: &'a str, descriptor: &'static ServiceDescriptor, code: Option<&'a ServiceOptions>) -> Self {
        Self { id, descriptor, code, undeclared: false }
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
    /// Every option in effect, in the order of the documentation, with where it came from, for `explain`. `now` are the
    /// options as they are: where they are not what the layers say, the service itself changed them.
    pub(crate) fn explain(&self, now: &Options) -> Vec<Provenance> {
        let explain = |key: &'static Key| {
            let value = key.kind.show(now)?;
            let same = |set: &&Provenance| set.key == key.name || (key.is_schedule() && is_schedule(set.key));
            let set = self.provenance.iter().find(same);
            if key.kind.show(&self.options).as_ref() == Some(&value) {
                return Some(set.cloned().unwrap_or_else(|| Provenance::new(key.name, value, Layer::Default)));
            }
            let below = set.map(|set| (Provenance { shadowed: Vec::new(), ..set.clone() }, set.shadowed.clone()));
            let shadowed = below.into_iter().flat_map(|(set, rest)| std::iter::once(set).chain(rest)).collect();
            Some(Provenance { shadowed, ..Provenance::new(key.name, value, Layer::Running) })
        };
        keys::options().filter_map(explain).collect()
    }
}

impl Provenance {
    /// Whether the value was set for all services at once.
    pub(crate) fn is_for_all(&self) -> bool {
        self.layer == Layer::Defaults || self.place.ends_with(FOR_ALL)
    }

    fn new(key: &'static str, value: String, layer: Layer) -> Self {
        Self { key, value, layer, place: layer.to_string(), shadowed: Vec::new() }
    }
}

fn is_schedule(key: &str) -> bool {
    keys::find(key).is_some_and(Key::is_schedule)
}

/// A value of one layer for one option.
struct Entry {
    precedence: Precedence,
    origin: Arc<Origin>,
    shown: String,
    read: Read,
}

enum Read {
    Accepted(Accepted),
    /// A `${…}` that cannot be read: an error only where the value is used.
    Unreadable(ConfigError),
    /// An error that is reported already.
    Wrong,
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

    /// The layers come in the order of their precedence.
    pub(super) fn layer(&mut self, precedence: Precedence, table: &Table) {
        for (key, node) in table {
            self.set(precedence, key, node);
        }
    }

    fn set(&mut self, precedence: Precedence, name: &str, node: &Node) {
        let setting = || Setting::new(self.id, name, &node.origin);
        let Some(key) = keys::find(name) else {
            if precedence.is_default() {
                let hint = match keys::suggest(name) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`[defaults]` holds keys of `#[service]` only".to_owned(),
                };
                self.errors.push(ConfigError::UnknownKey { setting: setting(), hint });
            } else {
                values::merge(&mut self.own, Table::from([(name.to_owned(), node.clone())]));
            }
            return;
        };
        if let Some(problem) = misplaced(key, precedence) {
            self.errors.push(ConfigError::Conflict { setting: setting(), problem });
            return;
        }
        let (shown, read) = match (broken(&node.value), key.kind.read(&node.value)) {
            (Some((variable, why)), _) => {
                let (variable, problem) = (variable.to_owned(), why.to_owned());
                let error = ConfigError::Variable { setting: setting(), variable, problem };
                (node.value.show(false), Read::Unreadable(error))
            }
            (None, Ok(accepted)) => {
                let is_secret = matches!(node.value, Value::Text { secret: true, .. });
                let shown = if is_secret { node.value.show(true) } else { accepted.shown.clone() };
                (shown, Read::Accepted(accepted))
            }
            (None, Err(expected)) => {
                let found = node.value.show(is_secret(name));
                self.errors.push(ConfigError::Value { setting: setting(), found: found.clone(), expected });
                (found, Read::Wrong)
            }
        };
        let entries = self.options.entry(key.name).or_default();
        // Of one layer the later value counts; it hides nothing of another layer.
        entries.retain(|entry| entry.precedence != precedence);
        entries.push(Entry { precedence, origin: Arc::clone(&node.origin), shown, read });
    }

    fn top(&self, key: &str) -> Option<&Entry> {
        self.options.get(key)?.last()
    }

    /// Only the errors: of `[defaults]`, which is looked at once for all services.
    pub(super) fn finish_defaults(mut self) -> Vec<ConfigError> {
        let unused = self.unused();
        let mut options = Options::default();
        self.apply(&unused, &mut options);
        let broken = self.options.values().flatten().filter_map(|entry| match &entry.read {
            Read::Unreadable(error) => Some(error.clone()),
            _ => None,
        });
        let broken: Vec<ConfigError> = broken.filter(|error| !self.errors.contains(error)).collect();
        self.errors.extend(broken);
        self.errors
    }

    pub(super) fn finish(mut self, target: Target<'_>, file: &str) -> Result<Resolved, Vec<ConfigError>> {
        let code = target.code;
        self.check_own(target);
        let mut options =
            Options { requester_id: code.and_then(|code| code.requester_id.clone()), ..Options::default() };
        let unused = self.unused();
        self.apply(&unused, &mut options);
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
            let place = code.origin().place.clone();
            provenance.push(Provenance { place, ..Provenance::new("requester_id", id.clone(), Layer::Code) });
        }
        Ok(Resolved {
            options: Arc::new(options),
            provenance,
            settings: Settings::new(self.own, file),
            rejected: Vec::new(),
            warnings: self.warnings,
        })
    }

    /// Applies every value that is in use; an error is one that only such a value can be.
    fn apply(&mut self, unused: &[&'static str], options: &mut Options) {
        let mut errors = Vec::new();
        let setting = |key: &Key, entry: &Entry| Setting::new(self.id, key.name, &entry.origin);
        // In the order of the table: a time zone changes the cron schedule that is set before it.
        for key in keys::options().filter(|key| !unused.contains(&key.name)) {
            let Some(entry) = self.top(key.name) else { continue };
            match (&entry.read, key.missing_feature()) {
                (Read::Accepted(_), Some(feature)) => {
                    let problem = format!(
                        "needs the feature `{feature}` of service-core, which this program was built without: add \
                         `features = [\"{feature}\"]` to it in Cargo.toml"
                    );
                    errors.push(ConfigError::Conflict { setting: setting(key, entry), problem });
                }
                (Read::Accepted(accepted), None) => accepted.apply(options),
                (Read::Unreadable(error), _) => errors.push(error.clone()),
                (Read::Wrong, _) => {}
            }
        }
        self.errors.extend(errors);
        self.check_cron(&options.schedule);
    }

    /// Finds the keys that have no effect beside what the layers say of others. Errors: two schedules in one layer, and a
    /// key without the one that it goes with, where the layer that decided so or a later one sets it.
    fn unused(&mut self) -> Vec<&'static str> {
        let mut schedules: Vec<(Precedence, &'static str, Arc<Origin>)> = keys::options()
            .filter(|key| key.is_schedule())
            .filter_map(|key| self.top(key.name).map(|entry| (entry.precedence, key.name, Arc::clone(&entry.origin))))
            .collect();
        schedules.sort_by_key(|(precedence, ..)| std::cmp::Reverse(*precedence));
        for pair in schedules.windows(2) {
            let ((first_precedence, first, _), (precedence, key, origin)) = (&pair[0], &pair[1]);
            if first_precedence == precedence {
                let problem = format!("`{first}` stands there too, a service has one schedule: keep one of the two");
                self.errors.push(ConfigError::Conflict { setting: Setting::new(self.id, *key, origin), problem });
            }
        }
        let mut unused: Vec<&'static str> = schedules.iter().skip(1).map(|(_, key, _)| *key).collect();
        let schedule = schedules.first().map(|(precedence, key, _)| (*precedence, *key));
        for key in keys::options() {
            for rule in key.rules {
                let Rule::Needs { key: other, value } = *rule else { continue };
                let (decided, problem) = match (value, self.top(other).filter(|_| !unused.contains(&other))) {
                    (Some(value), Some(entry)) if entry.shown == value || matches!(entry.read, Read::Wrong) => continue,
                    (None, Some(_)) => continue,
                    (Some(value), entry) => {
                        (entry.map(|entry| entry.precedence), format!("goes with `{other} = \"{value}\"` only"))
                    }
                    (None, None) => {
                        let has = schedule.map_or("none".to_owned(), |(_, schedule)| format!("`{schedule}`"));
                        let problem = format!("goes with `{other}` only, and this service has {has}");
                        (schedule.map(|(precedence, _)| precedence), problem)
                    }
                };
                unused.extend(self.leave_out(key.name, decided, problem));
            }
        }
        unused
    }

    /// Marks a key as not in use; an error where it was said in the layer that decided so, or later.
    fn leave_out(&mut self, key: &'static str, decided: Option<Precedence>, problem: String) -> Option<&'static str> {
        let entry = self.top(key)?;
        if matches!(entry.read, Read::Wrong) {
            return Some(key);
        }
        if decided.is_none_or(|decided| entry.precedence >= decided) && !entry.precedence.is_default() {
            let setting = Setting::new(self.id, key, &entry.origin);
            self.errors.push(ConfigError::Conflict { setting, problem });
        }
        Some(key)
    }

    /// Whether the runtime knows the cron schedule's expression and time zone.
    fn check_cron(&mut self, schedule: &Schedule) {
        let Schedule::Cron(cron) = schedule else { return };
        let Err(mistake) = crate::schedule::cron::check(cron) else { return };
        let Some(entry) = self.top(mistake.key()) else { return };
        let setting = Setting::new(self.id, mistake.key(), &entry.origin);
        self.errors.push(match mistake {
            // What is said of a secret may hold it.
            _ if entry.shown == REDACTED => {
                ConfigError::Value { setting, found: entry.shown.clone(), expected: mistake.expected().to_owned() }
            }
            _ => ConfigError::Value { setting, found: format!("{:?}", entry.shown), expected: mistake.to_string() },
        });
    }

    fn provenance(&self, unused: &[&'static str]) -> Vec<Provenance> {
        let one = |key: &'static str, entry: &Entry| Provenance {
            key,
            value: entry.shown.clone(),
            layer: entry.origin.layer,
            place: entry.origin.place.clone(),
            shadowed: Vec::new(),
        };
        keys::options()
            .filter(|key| !unused.contains(&key.name))
            .filter_map(|key| {
                let (last, below) = self.options.get(key.name)?.split_last()?;
                let mut hidden: Vec<(&'static str, &Entry)> = below.iter().map(|entry| (key.name, entry)).collect();
                if key.is_schedule() {
                    let others = unused.iter().filter(|other| is_schedule(other));
                    hidden.extend(others.flat_map(|other| self.options[other].iter().map(|entry| (*other, entry))));
                }
                hidden.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.precedence));
                let shadowed = hidden.into_iter().map(|(key, entry)| one(key, entry)).collect();
                Some(Provenance { shadowed, ..one(key.name, last) })
            })
            .collect()
    }

    /// Keys that neither the attribute nor the settings have.
    fn check_own(&mut self, target: Target<'_>) {
        let declared = target.descriptor.settings.as_ref();
        let fields = match declared {
            Some(settings) => (settings.fields)(),
            None if target.undeclared => None,
            None => Some(&[][..]),
        };
        for field in fields.into_iter().flatten().filter(|field| keys::find(field).is_some()) {
            self.errors.push(ConfigError::Reserved { service: self.id.to_owned(), key: (*field).to_owned() });
        }
        let own = std::mem::take(&mut self.own);
        for (key, node) in &own {
            let setting = Setting::new(self.id, key, &node.origin);
            match fields {
                Some(fields) if is_field(key, node, fields) => {}
                // The test bed's `.set("batch_size", …)` is for the services that have it.
                Some(_) if node.origin.place.ends_with(FOR_ALL) => {}
                Some(fields) => {
                    self.errors.push(ConfigError::UnknownKey { setting, hint: deserialize::hint(key, fields) });
                }
                None => self.check_undeclared(key, setting),
            }
        }
        self.own = own;
    }

    /// Where the keys of the settings are not known, only what looks like a misspelt option is a mistake.
    fn check_undeclared(&mut self, key: &str, setting: Box<Setting>) {
        let Some(near) = nearest(key, keys::options().map(|key| key.name)) else { return };
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

/// Why a key may not stand in a layer.
fn misplaced(key: &Key, precedence: Precedence) -> Option<String> {
    if matches!(key.kind, Kind::Attribute) {
        return Some("only `#[service(…)]` can have it".to_owned());
    }
    let one_service = key.rules.iter().any(|rule| matches!(rule, Rule::OneService));
    (one_service && precedence.is_default()).then(|| "belongs to one service, put it into its section".to_owned())
}

/// Names of environment variables have no case, so those of fields are not compared by it.
fn is_field(key: &str, node: &Node, fields: &[&str]) -> bool {
    let from_environment = node.origin.layer == Layer::Environment;
    fields.iter().any(|field| *field == key || (from_environment && field.eq_ignore_ascii_case(key)))
}

/// The first `${…}` in a value that could not be read.
fn broken(value: &Value) -> Option<(&str, &'static str)> {
    match value {
        Value::Broken { variable, why } => Some((variable, why)),
        Value::List(items) => items.iter().find_map(|item| broken(&item.value)),
        _ => None,
    }
}
