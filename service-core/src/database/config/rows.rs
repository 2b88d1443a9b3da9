//! [`TableRows`]: applies rows of `service_config` and `service_override` to the services.
//!
//! The tricky part is a row that is wrong. It is reported once, with its key. The previous value of the row stays in
//! effect while this process runs; if there is none, the value of the layer below applies. No row of these tables can
//! fail a service.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::config::{ConfigError, Layer, Origin, PendingChange, Resolved, Row, Scope, Setting, Sources};
use crate::log::warn;
use crate::panic::Caught;
use crate::runtime::dependencies;
use crate::runtime::operator_store::{OtherPause, PAUSED, StoredPauses};
use crate::runtime::registration::RegisteredService;
use crate::runtime::requests::OverridePause;
use crate::runtime::resource::unknown_need;
use crate::runtime::services::Services;
use crate::sync::Mutex;

mod blame;
mod check;

/// The rows of all services, as they were read and applied.
#[derive(Debug, Default)]
pub(crate) struct TableRows {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The rows of each service, as read from the tables.
    read: BTreeMap<Arc<str>, Vec<TableRow>>,
    /// The rows that were applied, without those that pause.
    applied: BTreeMap<Arc<str>, Vec<TableRow>>,
    /// The rows with the key `paused` that were applied.
    pauses: BTreeMap<Arc<str>, Vec<TableRow>>,
    /// The last valid value of each row.
    last_valid: BTreeMap<(Arc<str>, Slot), Value>,
    reported: HashSet<String>,
    /// The services were started with what the tables had then.
    started: bool,
}

/// The identity of a row: its layer, its key, and the services that it is for.
type Slot = (Layer, String, Scope);

/// One row of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableRow {
    layer: Layer,
    key: String,
    scope: Scope,
    value: Value,
    place: String,
    /// When it was set, if that is recorded.
    since: Option<SystemTime>,
    /// Why it has no valid value.
    problem: Option<String>,
}

impl TableRow {
    pub(super) fn new(layer: Layer, key: String, value: std::result::Result<Value, String>, place: String) -> Self {
        let (value, problem) = value.map_or_else(|problem| (Value::Null, Some(problem)), |value| (value, None));
        Self { layer, key, scope: Scope::Service, value, place, since: None, problem }
    }

    /// Adds when it was set.
    pub(super) fn set_at(self, at: SystemTime) -> Self {
        Self { since: Some(at), ..self }
    }

    fn slot(&self) -> Slot {
        (self.layer, self.key.clone(), self.scope)
    }

    /// Whether an operator set it for this service only.
    fn is_own_override(&self) -> bool {
        self.layer == Layer::Override && self.scope == Scope::Service
    }

    /// Its place, as it is shown where the service is paused by it.
    fn described(&self) -> String {
        if self.layer == Layer::Override { format!("an {}", self.place) } else { self.place.clone() }
    }

    /// An override of `pause` counts as one of `paused`, unless the service has a setting of the name `pause`.
    fn normalized(mut self, own: Option<&[&str]>) -> Self {
        if self.layer == Layer::Override && self.key == "pause" && !own.is_some_and(|own| own.contains(&"pause")) {
            self.key = PAUSED.to_owned();
        }
        self
    }

    /// What is wrong with the row for any service.
    fn problem(&self, service: &str) -> Option<ConfigError> {
        let setting = || Setting::new(service, self.key.as_str(), &Origin::new(self.layer, self.place.as_str()));
        if let Some(problem) = &self.problem {
            return Some(ConfigError::Conflict { setting: setting(), problem: problem.clone() });
        }
        if self.layer == Layer::Override && self.scope == Scope::Defaults && self.key != PAUSED {
            let problem = "an override of `defaults` can only be `paused`: override it for one service".to_owned();
            return Some(ConfigError::Conflict { setting: setting(), problem });
        }
        let expected = "true or false".to_owned();
        let is_none = self.key == PAUSED && !self.value.is_boolean();
        is_none.then(|| ConfigError::Value { setting: setting(), found: self.value.to_string(), expected })
    }
}

impl TableRows {
    /// Returns the rows that are in effect for a service.
    pub(crate) fn in_effect(&self, sources: &Sources, service: &str) -> Vec<Row> {
        let state = self.state.lock();
        let row = |row: &TableRow| sources.row(row.layer, row.scope, &row.key, row.value.clone(), &row.place);
        state.applied.get(service).into_iter().flatten().map(row).collect()
    }

    /// Applies the rows again, because the layers below have changed.
    pub(crate) fn apply_again(&self, services: &Services) {
        for service in services.all() {
            let rows = self.state.lock().read.get(service.id()).cloned().unwrap_or_default();
            if !rows.is_empty() {
                self.apply(services, &service, &rows);
            }
        }
    }

    /// Returns what pauses a service, by the rows that were read last.
    pub(crate) fn pauses(&self, service: &RegisteredService) -> StoredPauses {
        let state = self.state.lock();
        let pauses = state.pauses.get(service.id()).map_or(&[][..], Vec::as_slice);
        let (own, others): (Vec<&TableRow>, Vec<&TableRow>) = pauses.iter().partition(|row| row.is_own_override());
        let other = decisive(&others).map(|row| {
            let name = match row.scope {
                Scope::Defaults => "defaults",
                Scope::Type => service.descriptor.id(),
                Scope::Service => service.id(),
            };
            let of = (row.layer == Layer::Override).then(|| name.to_owned());
            OtherPause { place: row.described(), of }
        });
        StoredPauses { own: decisive(&own).is_some(), other }
    }

    fn report(&self, service: &str, place: &str, problem: &str) {
        let line = format!("{place}: {problem}");
        if self.state.lock().reported.insert(format!("{service} {line}")) {
            warn!(service.id = %service, "row ignored, the previous value stays in effect: {line}");
        }
    }

    /// Applies what was read from the tables, by the name of the service, its type or `defaults`.
    pub(super) fn apply_all(&self, services: &Services, rows: BTreeMap<String, Vec<TableRow>>) {
        for service in services.all() {
            let (id, type_name) = (service.id(), service.descriptor.id());
            let names = [("defaults", Scope::Defaults), (type_name, Scope::Type), (&**id, Scope::Service)];
            let names = names.into_iter().filter(|(name, scope)| *scope != Scope::Type || *name != &**id);
            // An operator pauses or changes the service that has this id, not the others of its type.
            let is_of_one = services.get(type_name).is_some();
            let scoped = names.flat_map(|(name, scope)| {
                let rows = rows.get(name).into_iter().flatten();
                let rows = rows.filter(move |row| !(is_of_one && scope == Scope::Type && row.layer == Layer::Override));
                rows.map(move |row| TableRow { scope, ..row.clone() })
            });
            let current: Vec<TableRow> = scoped.collect();
            let is_known = match self.state.lock().read.get_key_value(id) {
                None => current.is_empty(),
                // The service may have been unregistered, and another one registered with its id.
                Some((known, rows)) => Arc::ptr_eq(known, id) && *rows == current,
            };
            if !is_known {
                self.apply(services, &service, &current);
                let mut state = self.state.lock();
                state.read.remove(id);
                state.read.insert(id.clone(), current);
            }
        }
    }

    /// Resolves a service's configuration with these rows. An invalid row is replaced by its last valid value.
    fn apply(&self, services: &Services, service: &RegisteredService, rows: &[TableRow]) {
        service.inner.log(|| self.apply_logged(services, service, rows));
    }

    /// The same. The caller adds the labels of the service to the log.
    fn apply_logged(&self, services: &Services, service: &RegisteredService, rows: &[TableRow]) {
        let (id, descriptor) = (service.id(), service.descriptor);
        let mut rejected = Vec::new();
        let own_names = descriptor.setting_names();
        let rows: Vec<TableRow> = rows.iter().map(|row| row.clone().normalized(own_names)).collect();
        // Removes the values of rows that were deleted.
        self.state.lock().last_valid.retain(|(of, slot), _| of != id || rows.iter().any(|row| row.slot() == *slot));
        let rows = rows.into_iter().filter_map(|row| {
            let Some(problem) = row.problem(id) else { return Some(row) };
            self.report(id, &row.place, &problem.to_string());
            rejected.push(problem);
            let last_valid = self.state.lock().last_valid.get(&(id.clone(), row.slot())).cloned();
            last_valid.map(|value| TableRow { value, problem: None, ..row })
        });
        let (pauses, mut rows): (Vec<TableRow>, Vec<TableRow>) = rows.partition(|row| row.key == PAUSED);
        let resolved = self.resolve_valid(services, service, &mut rows, &mut rejected);
        if let Some(resolved) = resolved {
            self.set_valid(id, &rows);
            self.state.lock().applied.insert(id.clone(), rows);
            let resolved =
                if rejected.is_empty() { resolved } else { Arc::new(Resolved { rejected, ..(*resolved).clone() }) };
            self.report_pending(service, &resolved);
            service.reconfigure(resolved);
        }
        // A pause applies whatever is wrong with the other rows.
        self.set_valid(id, &pauses);
        let pause = decisive(&pauses.iter().collect::<Vec<_>>())
            .map(|row| OverridePause { place: row.described().into(), since: row.since });
        self.state.lock().pauses.insert(id.clone(), pauses);
        service.inner.set_override_pause(pause);
    }

    /// Resolves the configuration with these rows. Invalid ones are rejected: replaced by their last valid value, or
    /// removed. `None`: the rows cannot be used at all.
    fn resolve_valid(
        &self,
        services: &Services,
        service: &RegisteredService,
        rows: &mut Vec<TableRow>,
        rejected: &mut Vec<ConfigError>,
    ) -> Option<Arc<Resolved>> {
        let id = service.id();
        let unusable = |problem: &str| {
            warn!(service.id = %id, "the rows of the tables cannot be used, the previous configuration stays in effect: {problem}");
            None
        };
        // Each pass removes a row or restores its last valid value, so the loop ends.
        loop {
            let checked = match resolve_with(services, service, rows) {
                Ok(checked) => checked,
                Err(problem) => return unusable(&problem),
            };
            let rejected_before = rejected.len();
            for error in checked.wrong.iter().chain(&checked.settings) {
                let Some(setting) = error.setting() else { continue };
                let is_of_row = |row: &TableRow| row.place == setting.place && concerns(&row.key, &setting.key);
                if let Some(at) = rows.iter().position(is_of_row) {
                    self.reject(id, rows, at, error.clone(), rejected);
                }
            }
            if rejected.len() > rejected_before {
                continue;
            }
            let Some(unreadable) = checked.settings else { return Some(checked.resolved) };
            // The settings cannot be read, and the error names no row.
            let Some(blamed) = self.blamed(services, service, rows) else {
                return if checked.panicked { unusable(&unreadable.to_string()) } else { Some(checked.resolved) };
            };
            // From the last one on, so that the places of the others stay the same.
            for (at, error) in blamed.into_iter().rev() {
                let row = &rows[at];
                let setting = Setting::new(id, row.key.as_str(), &Origin::new(row.layer, row.place.as_str()));
                let problem = format!("the settings cannot be read with this value: {error}");
                self.reject(id, rows, at, ConfigError::Conflict { setting, problem }, rejected);
            }
        }
    }

    /// Reports a row that is invalid, and replaces it by its last valid value, or removes it.
    fn reject(
        &self,
        id: &Arc<str>,
        rows: &mut Vec<TableRow>,
        at: usize,
        error: ConfigError,
        rejected: &mut Vec<ConfigError>,
    ) {
        self.report(id, &rows[at].place, &error.to_string());
        self.replace(id, rows, at);
        rejected.push(error);
    }

    fn set_valid(&self, id: &Arc<str>, rows: &[TableRow]) {
        let values = rows.iter().map(|row| ((id.clone(), row.slot()), row.value.clone()));
        self.state.lock().last_valid.extend(values);
    }

    /// The services start with the rows that were read before.
    pub(super) fn set_started(&self) {
        self.state.lock().started = true;
    }

    /// Reports what rows change only at the next start of the program.
    fn report_pending(&self, service: &RegisteredService, resolved: &Resolved) {
        let (before, has_begun) = {
            let state = service.inner.lock();
            (state.requests.resolved.clone(), state.status.incarnation > 0)
        };
        // A disabled service never begins by itself.
        if !has_begun && (before.options.enabled || !self.state.lock().started) {
            return;
        }
        let is_row = |key: &str| {
            let set = resolved.set_by(key);
            set.is_some_and(|set| matches!(set.layer, Layer::Table | Layer::Override))
        };
        let id = service.id();
        for change in before.pending_changes(resolved).into_iter().filter(|change| is_row(change.key)) {
            let PendingChange { key, place, .. } = change;
            warn!(
                service.id = %id,
                "these changes of the tables need a restart of the program: `{key}` of service `{id}` ({place})"
            );
        }
    }

    /// Replaces a row by its last valid value, or removes it.
    fn replace(&self, id: &Arc<str>, rows: &mut Vec<TableRow>, at: usize) {
        let last_valid = self.state.lock().last_valid.get(&(id.clone(), rows[at].slot())).cloned();
        match last_valid {
            Some(value) if value != rows[at].value => rows[at].value = value,
            _ => _ = rows.remove(at),
        }
    }
}

/// The configuration of a service with certain rows, and its errors.
struct Checked {
    resolved: Arc<Resolved>,
    /// The errors of options.
    wrong: Vec<ConfigError>,
    /// The error of the service's own settings, or the panic of the code that reads them.
    settings: Option<ConfigError>,
    panicked: bool,
}

/// Resolves the configuration of a service with these rows, and checks it. Runs the user's code, which reads the
/// settings.
///
/// # Errors
/// The rows cannot be used at all.
fn resolve_with(services: &Services, service: &RegisteredService, rows: &[TableRow]) -> Result<Checked, String> {
    let (sources, id) = (services.sources(), service.id());
    let layer_row = |row: &TableRow| sources.row(row.layer, row.scope, &row.key, row.value.clone(), &row.place);
    let layer_rows: Vec<Row> = rows.iter().map(layer_row).collect();
    let resolved = sources.resolve(service.target(), &layer_rows).map_err(|errors| errors.to_string())?;
    let mut wrong = resolved.rejected.clone();
    wrong.extend(unknown_need(id, &resolved, &services.resources));
    wrong.extend(wrong_dependency(services, service, &resolved));
    let resolved = match service.fit(resolved.clone()) {
        Ok(fitted) => fitted,
        Err(unfit) => {
            wrong.push(unfit.of_setting(id));
            resolved
        }
    };
    let (settings, panicked) = match service.check_settings(&resolved.settings) {
        Caught::Returned(checked) => (checked.err(), false),
        Caught::Panicked(message) => {
            let problem = format!("reading the settings panicked: {message}");
            (Some(ConfigError::Settings { service: id.to_string(), problem }), true)
        }
    };
    Ok(Checked { resolved, wrong, settings, panicked })
}

/// Returns the row that pauses the service, if one does. The later layer wins; if one layer has both spellings, `true`
/// wins.
fn decisive<'a>(pauses: &[&'a TableRow]) -> Option<&'a TableRow> {
    let last = pauses.last().map(|row| (row.scope, row.layer));
    pauses.iter().copied().rfind(|row| last == Some((row.scope, row.layer)) && row.value == Value::Bool(true))
}

/// Returns the mistake in the `depends_on` of a service, if this is another one than before.
fn wrong_dependency(services: &Services, service: &RegisteredService, resolved: &Resolved) -> Option<ConfigError> {
    let options_of = |service: &RegisteredService| service.inner.lock().requests.options.clone();
    if options_of(service).depends_on == resolved.options.depends_on {
        return None;
    }
    let set = resolved.set_by("depends_on")?;
    let mut all = services.all();
    // The changed one first.
    all.sort_by_key(|other| other.id() != service.id());
    let options = |other: &Arc<RegisteredService>| match other.id() == service.id() {
        true => resolved.options.clone(),
        false => options_of(other),
    };
    let options: Vec<_> = all.iter().map(options).collect();
    let problem = dependencies::check_with(&all, &options, 1, &[]).into_iter().next()?;
    Some(ConfigError::Conflict { setting: set.setting(service.id()), problem })
}

/// Whether an error about `setting` is about this row: the keys are equal, or one contains the other.
fn concerns(row: &str, setting: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
    };
    within(row, setting) || within(setting, row)
}
