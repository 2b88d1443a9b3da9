//! From the layers to the [`Options`] of one service, with the place of each value.
//!
//! The tricky part is keys that depend on each other. Of all schedules (`interval`, `delay`, `cron`) that of the
//! highest layer wins. A key that needs another schedule (`timezone`, `catch_up`), or needs `restart`, is an error in
//! the layer that sets the schedule, and in later ones. In lower layers it has no effect, as it belongs to what the
//! later layer replaced. In `[defaults]` it is never an error: it applies to the services that have the other key.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::descriptor::{ServiceDescriptor, SettingsSource};
use super::deserialize;
use super::errors::{ConfigError, Setting};
use super::keys::{self, Key, Rule};
use super::kinds::{Accepted, Kind};
use super::layers::{Layer, Origin, Precedence};
use super::merge::merge;
use super::resolved::{Provenance, Resolved, is_schedule};
use super::secrets::is_secret;
use super::settings::Settings;
use super::values::{self, Node, Table, Value};
use crate::config::options::{Options, ServiceOptions};
use crate::humanize;
use crate::schedule::{CatchUp, LongRun, Schedule};
use crate::service::secret::REDACTED;
use crate::suggest::{distance, is_mostly, is_probably, nearest};

/// One row of a layer that can change while the program runs. The key may have dots.
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

/// The service whose configuration is resolved.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) id: &'a str,
    pub(crate) descriptor: &'static ServiceDescriptor,
    /// The options that code gives it.
    pub(crate) code: Option<&'a ServiceOptions>,
    /// Code outside of its type may read its settings, so their keys are not known.
    pub(crate) undeclared: bool,
    /// Values that stay as they were at the start, although the file has changed.
    pub(crate) kept: Option<&'a KeptValues>,
}

/// The values of the file for the keys that are read only at the start.
pub(crate) struct KeptValues(pub(super) Vec<(Precedence, Table)>);

impl KeptValues {
    /// Whether the values are the same, wherever they are set.
    pub(crate) fn same_values(&self, other: &Self) -> bool {
        let Self(ours) = self;
        let Self(theirs) = other;
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|((a, ours), (b, theirs))| a == b && values::same_values(ours, theirs))
    }
}

#[cfg(test)]
impl<'a> Target<'a> {
    pub(crate) fn new(id: &'a str, descriptor: &'static ServiceDescriptor, code: Option<&'a ServiceOptions>) -> Self {
        Self { id, descriptor, code, undeclared: false, kept: None }
    }
}

/// The value of one option in one layer.
struct Entry {
    precedence: Precedence,
    origin: Arc<Origin>,
    shown: String,
    read: Read,
}

enum Read {
    Accepted(Accepted),
    /// Has a `${…}` that cannot be read: an error only if the value is used.
    Unreadable(ConfigError),
    /// Its error is reported already.
    Wrong,
}

/// Collects the values of one service, and turns them into options.
pub(super) struct Resolver<'a> {
    id: &'a str,
    /// The name of the type of the service.
    type_name: &'a str,
    /// By key, the lowest layer first.
    options: BTreeMap<&'static str, Vec<Entry>>,
    own: Table,
    /// The number of tables so far.
    tables: u32,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(id: &'a str, type_name: &'a str) -> Self {
        Self {
            id,
            type_name,
            options: BTreeMap::new(),
            own: Table::new(),
            tables: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Adds a layer, or one place of a layer. They are added in the order of their precedence.
    pub(super) fn layer(&mut self, precedence: Precedence, table: &Table) {
        self.tables += 1;
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
                    None => "`[defaults]` can only have keys of `#[service]`".to_owned(),
                };
                self.errors.push(ConfigError::UnknownKey { setting: setting(), hint });
            } else {
                let order = self.tables;
                let node = node.with_origins(&|origin| Arc::new(Origin { order, ..origin.clone() }));
                merge(&mut self.own, Table::from([(name.to_owned(), node)]));
            }
            return;
        };
        if let Some(problem) = self.misplaced(key, precedence) {
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
                let shown = if is_of_secret(&node.value) { REDACTED.to_owned() } else { accepted.shown.clone() };
                (shown, Read::Accepted(accepted))
            }
            (None, Err(expected)) => {
                let found = node.value.show(is_secret(name));
                self.errors.push(ConfigError::Value { setting: setting(), found: found.clone(), expected });
                (found, Read::Wrong)
            }
        };
        let entries = self.options.entry(key.name).or_default();
        // In one layer, a later value replaces an earlier one.
        entries.retain(|entry| entry.precedence != precedence);
        entries.push(Entry { precedence, origin: Arc::clone(&node.origin), shown, read });
    }

    /// Why a layer cannot have a key.
    fn misplaced(&self, key: &Key, precedence: Precedence) -> Option<String> {
        use Precedence::{DefaultsTable, Environment, File, Override, Set, Table, TypeOverride, TypeTable};
        if matches!(key.kind, Kind::Attribute) {
            return Some("can only be set in `#[service(…)]`".to_owned());
        }
        let has = |wanted: fn(&Rule) -> bool| key.rules.iter().any(wanted);
        if has(|rule| matches!(rule, Rule::OneService)) && precedence.is_default() {
            return Some("cannot apply to all services: set it in the section of one service".to_owned());
        }
        if has(|rule| matches!(rule, Rule::NotInTables))
            && matches!(precedence, DefaultsTable | Table | TypeTable | Override | TypeOverride)
        {
            let place = "the attribute, the file or the environment";
            return Some(format!(
                "needs a restart: it is read only at the start of the program, from {place}; set it there"
            ));
        }
        if !has(|rule| matches!(rule, Rule::OfType)) {
            return None;
        }
        let name = self.type_name;
        match precedence {
            Table | TypeTable | Override | TypeOverride => Some(format!(
                "needs a restart: it is read only at the start of the program, from the attribute, from `[{name}]` in the file or \
                 from the environment; set it there"
            )),
            File | Environment | Set if self.id != name => {
                Some(format!("is read from the section of the type: set it for `{name}`"))
            }
            _ => None,
        }
    }

    fn top(&self, key: &str) -> Option<&Entry> {
        self.options.get(key)?.last()
    }

    /// Returns the errors of `[defaults]`, which is checked once for all services.
    pub(super) fn finish_defaults(mut self) -> Vec<ConfigError> {
        let unused = self.unused(None);
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
        self.check_own(target);
        let mut options = Options::default();
        let is_long = target.descriptor.long_running;
        if is_long {
            options.schedule = Schedule::LongRun(LongRun::default());
        }
        let unused = self.unused(Some(is_long));
        self.apply(&unused, &mut options);
        if let Schedule::Cron(cron) = &mut options.schedule
            && options.lease.is_some()
            && (self.top("catch_up").is_none() || unused.contains(&"catch_up"))
        {
            // A fire that came due while no replica held the service is made up.
            cron.catch_up = CatchUp::Latest;
        }
        if options.retry_delay > options.max_retry_delay {
            self.warnings.push(format!(
                "`retry_delay` of service `{}` is {}, but `max_retry_delay` limits it to {}: raise `max_retry_delay` as well",
                self.id,
                humanize::exact(options.retry_delay),
                humanize::exact(options.max_retry_delay),
            ));
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let mut provenance = self.provenance(&unused);
        if let Some(code) = target.code
            && let Some(id) = &code.requester_id
        {
            let place = ServiceOptions::origin_at(code.location).place.clone();
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

    /// Applies every value that is in use, and adds the errors that only such a value can have.
    fn apply(&mut self, unused: &[&'static str], options: &mut Options) {
        let mut errors = Vec::new();
        let setting = |key: &Key, entry: &Entry| Setting::new(self.id, key.name, &entry.origin);
        // In the order of the table: the cron schedule is set before its time zone.
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

    /// Finds the keys that have no effect. Adds the errors: two schedules in one layer, and a key without the one that
    /// it needs, if the layer that decided about the other key or a later one sets it. `is_long`: whether the service
    /// has `run`; `None` for `[defaults]`.
    fn unused(&mut self, is_long: Option<bool>) -> Vec<&'static str> {
        let misfits = is_long.map_or_else(Vec::new, |is_long| self.misfits(is_long));
        let mut schedules: Vec<(Precedence, &'static str, Arc<Origin>)> = keys::options()
            .filter(|key| key.is_schedule() && !misfits.contains(&key.name))
            // `on_demand = false` is no schedule.
            .filter(|key| self.top(key.name).is_some_and(|entry| entry.shown != "false"))
            .filter_map(|key| self.top(key.name).map(|entry| (entry.precedence, key.name, Arc::clone(&entry.origin))))
            .collect();
        schedules.sort_by_key(|(precedence, ..)| std::cmp::Reverse(*precedence));
        for pair in schedules.windows(2) {
            let ((first_precedence, first, _), (precedence, key, origin)) = (&pair[0], &pair[1]);
            if first_precedence == precedence {
                let problem =
                    format!("`{first}` is set in the same layer: a service has one schedule, so keep one of the two");
                self.errors.push(ConfigError::Conflict { setting: Setting::new(self.id, *key, origin), problem });
            }
        }
        let mut unused: Vec<&'static str> = schedules.iter().skip(1).map(|(_, key, _)| *key).collect();
        unused.extend(misfits);
        let schedule = schedules.first().map(|(precedence, key, _)| (*precedence, *key));
        for key in keys::options().filter(|key| is_long.is_none_or(|is_long| key.fits(is_long))) {
            for rule in key.rules {
                let Rule::Needs { key: other, value } = *rule else { continue };
                let (decided, problem) = match (value, self.top(other).filter(|_| !unused.contains(&other))) {
                    (Some(value), Some(entry)) if entry.shown == value || matches!(entry.read, Read::Wrong) => continue,
                    (None, Some(_)) => continue,
                    (Some(value), entry) => {
                        (entry.map(|entry| entry.precedence), format!("needs `{other} = \"{value}\"`"))
                    }
                    (None, None) => {
                        let has = schedule
                            .map_or("no schedule of its own".to_owned(), |(_, schedule)| format!("`{schedule}`"));
                        let problem = format!("needs `{other}`, but this service has {has}");
                        (schedule.map(|(precedence, _)| precedence), problem)
                    }
                };
                unused.extend(self.leave_out(key.name, decided, problem));
            }
        }
        unused
    }

    /// Finds the keys that do not apply to this kind of service. They are errors, unless they are set for all services.
    fn misfits(&mut self, is_long: bool) -> Vec<&'static str> {
        let problem = match is_long {
            true => "does not apply to a service with `run`, which has no schedule: remove it",
            false => "applies only to a service with `run`; this one has `update`: remove it",
        };
        let misfits = keys::options().filter(|key| !key.fits(is_long));
        misfits.filter_map(|key| self.leave_out(key.name, None, problem.to_owned())).collect()
    }

    /// Returns the key as one without effect. It is an error in the layer that decided so, and in later ones, but not
    /// where it is set for all services.
    fn leave_out(&mut self, key: &'static str, decided: Option<Precedence>, problem: String) -> Option<&'static str> {
        let entry = self.top(key)?;
        if matches!(entry.read, Read::Wrong) {
            return Some(key);
        }
        // `[defaults]` and `.set("interval", …)` of the test bed apply to the services that have this key.
        let is_for_all = entry.precedence.is_default() || entry.precedence == Precedence::SetForAll;
        if decided.is_none_or(|decided| entry.precedence >= decided) && !is_for_all {
            let setting = Setting::new(self.id, key, &entry.origin);
            self.errors.push(ConfigError::Conflict { setting, problem });
        }
        Some(key)
    }

    /// Checks the expression and the time zone of a cron schedule.
    fn check_cron(&mut self, schedule: &Schedule) {
        let Schedule::Cron(cron) = schedule else { return };
        let Err(mistake) = crate::schedule::cron::check(cron) else { return };
        let Some(entry) = self.top(mistake.key()) else { return };
        let setting = Setting::new(self.id, mistake.key(), &entry.origin);
        self.errors.push(match mistake {
            // The message about a secret could contain it.
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

    /// Checks the keys that are not keys of the attribute.
    fn check_own(&mut self, target: Target<'_>) {
        let declared = target.descriptor.settings.as_ref();
        let fields = match declared {
            Some(settings) => (settings.fields)(),
            None if target.undeclared => None,
            None => Some(&[][..]),
        };
        let source = declared.map_or(SettingsSource::Calls, |settings| settings.source);
        for field in fields.into_iter().flatten().filter(|field| keys::find(field).is_some()) {
            self.errors.push(ConfigError::Reserved { service: self.id.to_owned(), key: (*field).to_owned() });
        }
        let own = std::mem::take(&mut self.own);
        for (key, node) in &own {
            let setting = Setting::new(self.id, key, &node.origin);
            match fields {
                Some(fields) if is_field(key, node, fields) => {}
                _ if node.origin.is_set_for_all() => self.check_set_for_all(key, &setting, fields),
                Some(fields) => {
                    self.errors.push(ConfigError::UnknownKey { setting, hint: deserialize::hint(key, fields) });
                }
                None => match source {
                    SettingsSource::Uncertain if !target.undeclared => self.check_uncertain(key, setting),
                    SettingsSource::Calls | SettingsSource::Uncertain => self.check_undeclared(key, setting, false),
                    SettingsSource::Configure => self.check_undeclared(key, setting, true),
                },
            }
        }
        self.own = own;
    }

    /// `.set("batch_size", …)` of the test bed applies to the services that have this setting. Another one may have it.
    fn check_set_for_all(&mut self, key: &str, setting: &Setting, fields: Option<&[&str]>) {
        let names = keys::options().map(|key| key.name).chain(fields.into_iter().flatten().copied());
        let near = nearest(key, names).filter(|near| is_probably(key, near)).or_else(|| keys::synonym(key));
        if let Some(near) = near {
            self.warnings.push(format!("{setting} may have no effect: if `{near}` is meant, correct the name"));
        }
    }

    /// If it is not known whether the service has settings, a key that looks like an option is taken for one, also if
    /// it is called so elsewhere.
    fn check_uncertain(&mut self, key: &str, setting: Box<Setting>) {
        let misspelt = || nearest(key, keys::options().map(|key| key.name)).filter(|near| is_mostly(key, near));
        let Some(near) = keys::synonym(key).or_else(misspelt) else {
            return self.check_undeclared(key, setting, false);
        };
        let hint = format!(
            "did you mean `{near}`? To have a setting `{key}`, add a parameter to `configure`: \
             `fn configure(cx: &Context, settings: Settings)`"
        );
        self.errors.push(ConfigError::UnknownKey { setting, hint });
    }

    /// If the keys of the settings are not known, only a key that looks like a misspelt option is an error. `has_type`:
    /// the type of the settings may have a field of this name behind `flatten`, or be a map. If it does not read the
    /// key, that is an error when the settings are read.
    fn check_undeclared(&mut self, key: &str, setting: Box<Setting>, has_type: bool) {
        let Some(near) = nearest(key, keys::options().map(|key| key.name)) else { return };
        let is_misspelt = is_probably(key, near);
        if is_misspelt && !has_type {
            let hint = format!("did you mean `{near}`?");
            self.errors.push(ConfigError::UnknownKey { setting, hint });
        } else if is_misspelt || distance(key, near) == 1 {
            self.warnings.push(format!(
                "{setting} is read as a setting of the service: if the option `{near}` is meant, correct the name"
            ));
        }
    }
}

/// Whether the settings have this field.
fn is_field(key: &str, node: &Node, fields: &[&str]) -> bool {
    fields.iter().any(|field| node.origin.layer.names(key, field))
}

/// Whether a value, or an item of a list, has a `${…}` with the name of a secret.
fn is_of_secret(value: &Value) -> bool {
    match value {
        Value::Text { secret, .. } => *secret,
        Value::List(items) => items.iter().any(|item| is_of_secret(&item.value)),
        _ => false,
    }
}

/// The first `${…}` in a value that cannot be read.
fn broken(value: &Value) -> Option<(&str, &'static str)> {
    match value {
        Value::Broken { variable, why } => Some((variable, why)),
        Value::List(items) => items.iter().find_map(|item| broken(&item.value)),
        _ => None,
    }
}
