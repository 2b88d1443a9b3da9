//! The table layers while the program runs: what `service_config` and `service_override` say is noticed within seconds.
//!
//! The tricky part is a row that is wrong. It is reported once, with its key, and the value that stood there before goes
//! on to hold, for as long as this process lives; without one, the layer below does. Nothing that is written into
//! these tables can fail a service.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sea_orm::{ConnAcquireErr, DatabaseConnection, DbBackend, DbErr};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{ConfigError, Layer, Origin, Resolved, Row, Setting};
use crate::database::config::tables::{Override, expire_overrides, read_config, read_overrides};
use crate::database::error_kind::is_out_of_reach;
use crate::humanize;
use crate::panic::{self, Caught};
use crate::registry::{Inner, ServiceRegistry};
use crate::runtime::entry::Entry;
use crate::runtime::shared::Hub;
use crate::service::error::{Error, Result};

/// How long a change may take to be noticed.
const LOOK: Duration = Duration::from_secs(3);
/// How long an answer is waited for: with connections of the registry's own, and at start.
const PATIENCE: Duration = Duration::from_secs(6);
/// The same where services may keep the pool busy.
pub(crate) const SHARED_PATIENCE: Duration = Duration::from_secs(15);

/// What is known of the table layers.
#[derive(Debug, Default)]
pub(crate) struct Live {
    watching: AtomicBool,
    /// One look at a time, so that no older one is applied last; and when the last one began.
    looking: tokio::sync::Mutex<Looked>,
    known: Mutex<Known>,
}

type Looked = Option<Instant>;

#[derive(Debug, Default)]
struct Known {
    /// The rows of each service, as they stand in the tables.
    rows: BTreeMap<Arc<str>, Vec<Told>>,
    /// Those that it is configured with.
    used: BTreeMap<Arc<str>, Vec<Told>>,
    /// The last value that could be used, of each row.
    good: BTreeMap<(Arc<str>, Slot), Value>,
    reported: HashSet<String>,
    /// The database answers, but not with the tables' rows.
    unreadable: bool,
}

/// A row of a table: its layer, its key, and whether it is for all services.
type Slot = (Layer, String, bool);

/// One row as it stands in its table.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    layer: Layer,
    key: String,
    for_all: bool,
    value: Value,
    place: String,
    /// Why it says nothing at all; then the value is none.
    problem: Option<String>,
}

impl Told {
    fn new(layer: Layer, key: String, value: std::result::Result<Value, String>, place: String) -> Self {
        let (value, problem) = value.map_or_else(|problem| (Value::Null, Some(problem)), |value| (value, None));
        Self { layer, key, for_all: false, value, place, problem }
    }

    fn slot(&self) -> Slot {
        (self.layer, self.key.clone(), self.for_all)
    }

    /// "pause" is what an operator does, `paused` what the service is then; but it may have a setting of that name.
    fn understood(mut self, own: Option<&[&str]>) -> Self {
        if self.layer == Layer::Override && self.key == "pause" && !own.is_some_and(|own| own.contains(&"pause")) {
            self.key = PAUSED.to_owned();
        }
        self
    }

    /// What is wrong with it whoever it is for.
    fn mistake(&self, service: &str) -> Option<ConfigError> {
        let setting = || Setting::new(service, self.key.as_str(), &Origin::new(self.layer, self.place.as_str()));
        if let Some(problem) = &self.problem {
            return Some(ConfigError::Conflict { setting: setting(), problem: problem.clone() });
        }
        let expected = "true or false".to_owned();
        let is_none = self.key == PAUSED && !self.value.is_boolean();
        is_none.then(|| ConfigError::Value { setting: setting(), found: self.value.to_string(), expected })
    }
}

/// The one key that is no option and no setting.
const PAUSED: &str = "paused";

impl Live {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
enum Silent {
    #[error("no answer within {} s", .0.as_secs())]
    Away(Duration),
    #[error("no answer within {} s: it is away, or all connections of its pool are in use", .0.as_secs())]
    AwayOrUsedUp(Duration),
    #[error("no answer within {} s: all connections of its pool are in use", .0.as_secs())]
    UsedUp(Duration),
}

/// Whether it says no more than that a pool has no connection to spare. A file answers at once, if only that it cannot be
/// opened, so on SQLite nobody who shares the services' pool takes this for an outage.
fn is_used_up(hub: &Hub, error: &Error) -> bool {
    let no_connection = matches!(error.find(), Some(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)));
    shares_sqlite(hub) && (no_connection || error.find::<Silent>().is_some())
}

fn shares_sqlite(hub: &Hub) -> bool {
    let is_sqlite = |db: &DatabaseConnection| db.get_database_backend() == DbBackend::Sqlite;
    !hub.presence.has_own() && hub.database.as_ref().is_some_and(is_sqlite)
}

/// Reads the tables once, before everything starts. A database that is away delays that by a few seconds at most.
///
/// # Errors
/// The framework's tables are missing and cannot, or shall not, be made.
pub(crate) async fn look_before_all(registry: &ServiceRegistry) -> Result<()> {
    let inner = &registry.inner;
    if inner.hub.database.is_none() {
        return Ok(());
    }
    if let Some(error) = look_for(registry, PATIENCE).await
        && !inner.hub.presence.is_away()
        && !is_used_up(&inner.hub, &error)
        && !inner.hub.presence.tables().are_ready()
    {
        return Err(error);
    }
    Ok(())
}

/// Looks again and again for as long as the registry and the runtime live. Does nothing where that is done already.
pub(crate) fn keep_watching(registry: &ServiceRegistry, runtime: &Handle) {
    let inner = &registry.inner;
    if inner.hub.database.is_none() || inner.hub.clock_is_held || inner.live.watching.swap(true, Ordering::SeqCst) {
        return;
    }
    let watching = Watching(Arc::downgrade(inner));
    let hub = inner.hub.clone();
    runtime.spawn(async move {
        loop {
            // Sooner where a service could not reach it, but not as often as that may be.
            tokio::time::sleep(LOOK / 6).await;
            let _ = tokio::time::timeout(LOOK - LOOK / 6, hub.presence.suspected()).await;
            let Some(inner) = watching.0.upgrade() else { return };
            look(&ServiceRegistry { inner }).await;
        }
    });
}

/// Held by the task that watches: where its runtime goes down, the next start has another one watch.
struct Watching(Weak<Inner>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.live.watching.store(false, Ordering::SeqCst);
        }
    }
}

/// Before one service starts: what the tables say of it holds from its first instance on. Does nothing where the database is
/// known to be away. Of those who ask together, one looks for all.
pub(crate) async fn look_if_there(registry: &ServiceRegistry) {
    let Inner { hub, live, .. } = &*registry.inner;
    if hub.database.is_none() || hub.presence.is_away() {
        return;
    }
    let asked = Instant::now();
    let mut looked = live.looking.lock().await;
    if !hub.presence.is_away() && looked.is_none_or(|began| began <= asked) {
        look_alone(registry, patience(registry), &mut looked).await;
    }
}

/// Whether the database is away, which is looked into where it is not known to be.
pub(crate) async fn is_away(registry: &ServiceRegistry) -> bool {
    look_if_there(registry).await;
    registry.inner.hub.presence.is_away()
}

/// Reads the tables and applies what has changed; says once that the database is away, and once that it is back.
pub(crate) async fn look(registry: &ServiceRegistry) -> Option<Error> {
    look_for(registry, patience(registry)).await
}

fn patience(registry: &ServiceRegistry) -> Duration {
    if registry.inner.hub.presence.has_own() { PATIENCE } else { SHARED_PATIENCE }
}

async fn look_for(registry: &ServiceRegistry, patience: Duration) -> Option<Error> {
    let mut looked = registry.inner.live.looking.lock().await;
    look_alone(registry, patience, &mut looked).await
}

async fn look_alone(registry: &ServiceRegistry, patience: Duration, looked: &mut Looked) -> Option<Error> {
    let Inner { hub, live, .. } = &*registry.inner;
    let began = Instant::now();
    let rows = match tokio::time::timeout(patience, read(registry)).await {
        Ok(rows) => rows,
        Err(_) if hub.presence.has_own() => Err(Error::new(Silent::Away(patience))),
        Err(_) if shares_sqlite(hub) => Err(Error::new(Silent::UsedUp(patience))),
        Err(_) => Err(Error::new(Silent::AwayOrUsedUp(patience))),
    };
    // One that was cut short is none.
    *looked = Some(began);
    let name = hub.presence.name();
    let error = match rows {
        Ok(rows) => {
            is_back(registry);
            if std::mem::take(&mut live.known().unreadable) {
                info!("service_config and service_override can be read again");
            }
            apply_all(registry, rows);
            return None;
        }
        Err(error) => error,
    };
    let used_up = is_used_up(hub, &error);
    if !used_up && (is_out_of_reach(&error) || error.find::<Silent>().is_some()) {
        if hub.presence.gone(format!("{error:#}")) {
            warn!(
                "the {name} does not answer, services that need it wait; what service_config and service_override said \
                 before still holds: {error:#}"
            );
        }
    } else {
        if !used_up {
            is_back(registry);
        }
        if !std::mem::replace(&mut live.known().unreadable, true) {
            warn!("service_config and service_override cannot be read, what they said before still holds: {error:#}");
        }
    }
    Some(error)
}

/// It has answered.
fn is_back(registry: &ServiceRegistry) {
    let presence = &registry.inner.hub.presence;
    let Some(after) = presence.back() else { return };
    info!("the {} answers again, after {}", presence.name(), humanize::long(after));
    for entry in registry.entries() {
        entry.database_is_back();
    }
}

async fn read(registry: &ServiceRegistry) -> Result<BTreeMap<String, Vec<Told>>> {
    let hub = &registry.inner.hub;
    let Some(db) = &hub.database else { return Ok(BTreeMap::new()) };
    let db = hub.presence.own(db);
    hub.presence.tables().ensure(db).await?;
    let now = hub.clock.wall_now().into();
    for ended in expire_overrides(db, now).await? {
        info!(service.id = %ended.service_id, "the override of `{}` by {} has ended", ended.key, ended.by);
    }
    let mut rows: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for row in read_config(db).await? {
        let place = format!("service_config, {} of {}", row.key, row.service_id);
        let told = Told::new(Layer::Table, row.key, row.value.map_err(|bad| bad.to_string()), place);
        rows.entry(row.service_id).or_default().push(told);
    }
    for row in read_overrides(db, now).await? {
        let (service, told) = match row {
            Ok(row) => {
                let place = place(&row);
                (row.service_id, Told::new(Layer::Override, row.key, Ok(row.value), place))
            }
            Err(bad) => {
                let place = format!("service_override, {} of {}", bad.key, bad.service_id);
                (bad.service_id, Told::new(Layer::Override, bad.key, Err(bad.reason), place))
            }
        };
        rows.entry(service).or_default().push(told);
    }
    Ok(rows)
}

fn place(row: &Override) -> String {
    let until = row.until.map_or_else(String::new, |until| format!(", until {}", until.format("%Y-%m-%d %H:%M UTC")));
    let why = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
    format!("override by {} at {}{until}{why}", row.by, row.at.format("%Y-%m-%d %H:%M UTC"))
}

fn report(live: &Live, service: &str, place: &str, problem: &str) {
    let line = format!("{place}: {problem}");
    if live.known().reported.insert(format!("{service} {line}")) {
        warn!(service.id = %service, "ignored, what held before still does: {line}");
    }
}

fn apply_all(registry: &ServiceRegistry, mut rows: BTreeMap<String, Vec<Told>>) {
    let mut for_all = rows.remove("defaults").unwrap_or_default();
    for row in &mut for_all {
        row.for_all = true;
    }
    for entry in registry.entries() {
        let mut told = for_all.clone();
        told.extend(rows.remove(&*entry.id).unwrap_or_default());
        let known = registry.inner.live.known().rows.get(&entry.id).cloned().unwrap_or_default();
        if known != told {
            apply(registry, &entry, &told);
            registry.inner.live.known().rows.insert(entry.id.clone(), told);
        }
    }
}

/// Resolves a service anew with these rows, each as it is or as it last was when it could be used.
fn apply(registry: &ServiceRegistry, entry: &Entry, told: &[Told]) {
    let Inner { sources, live, .. } = &*registry.inner;
    let mut rejected = Vec::new();
    let own_names = entry.descriptor.setting_names();
    let told: Vec<Told> = told.iter().map(|row| row.clone().understood(own_names)).collect();
    // What a row that is gone said is forgotten with it.
    live.known().good.retain(|(id, slot), _| *id != entry.id || told.iter().any(|row| row.slot() == *slot));
    let told = told.into_iter().filter_map(|row| {
        let Some(mistake) = row.mistake(&entry.id) else { return Some(row) };
        report(live, &entry.id, &row.place, &mistake.to_string());
        rejected.push(mistake);
        let good = live.known().good.get(&(entry.id.clone(), row.slot())).cloned();
        good.map(|value| Told { value, problem: None, ..row })
    });
    let (pauses, mut told): (Vec<Told>, Vec<Told>) = told.partition(|row| row.key == PAUSED);
    let resolved = loop {
        let rows: Vec<Row> =
            told.iter().map(|row| sources.row(row.layer, &row.key, row.value.clone(), &row.place)).collect();
        let resolved = match sources.resolve(&entry.id, Some(entry.descriptor), entry.code.as_deref(), &rows) {
            Ok(resolved) => resolved,
            Err(errors) => {
                warn!(service.id = %entry.id, "the tables' rows cannot be used, what held before still does: {errors}");
                return;
            }
        };
        let mut wrong = resolved.rejected.clone();
        // The settings' type is the user's, and so is the code that reads it.
        match panic::catch(|| {
            entry.descriptor.settings.as_ref().map_or(Ok(()), |own| (own.check)(&resolved.settings, &entry.id))
        }) {
            Caught::Returned(checked) => wrong.extend(checked.err()),
            Caught::Panicked(message) => {
                warn!(
                    service.id = %entry.id,
                    "the tables' rows cannot be used, what held before still does: reading them as its settings panicked: {message}"
                );
                return;
            }
        }
        // Each turn takes away a row, or puts one back that could be used, so this ends.
        let before = told.len();
        let mut replaced = false;
        for error in wrong {
            let Some(setting) = error.setting() else { continue };
            let Some(at) = told.iter().position(|row| row.layer == setting.layer && concerns(&row.key, &setting.key))
            else {
                continue;
            };
            report(live, &entry.id, &told[at].place, &error.to_string());
            let good = live.known().good.get(&(entry.id.clone(), told[at].slot())).cloned();
            match good {
                Some(value) if value != told[at].value => told[at].value = value,
                _ => {
                    told.remove(at);
                }
            }
            replaced = true;
            rejected.push(error);
        }
        if !replaced && told.len() == before {
            break resolved;
        }
    };
    {
        let mut known = live.known();
        for row in told.iter().chain(&pauses) {
            known.good.insert((entry.id.clone(), row.slot()), row.value.clone());
        }
    }
    let resolved = if rejected.is_empty() { resolved } else { Arc::new(Resolved { rejected, ..(*resolved).clone() }) };
    let own_changed = own(&told) != own(&live.known().used.get(&entry.id).cloned().unwrap_or_default());
    live.known().used.insert(entry.id.clone(), told);
    entry.reconfigure(resolved, own_changed);
    // The later layer wins; where one says it twice, in both spellings, the pause does.
    let last = pauses.last().map(|row| (row.for_all, row.layer));
    let pause =
        pauses.into_iter().rfind(|row| last == Some((row.for_all, row.layer)) && row.value == Value::Bool(true));
    let pause = pause.map(|row| if row.layer == Layer::Override { format!("an {}", row.place) } else { row.place });
    entry.pause_by_override(pause);
}

/// The rows that are settings of the service's own.
fn own(rows: &[Told]) -> Vec<(String, Value)> {
    let own = rows.iter().filter(|row| !crate::config::is_attribute(&row.key));
    own.map(|row| (row.key.clone(), row.value.clone())).collect()
}

/// Whether an error about `setting` is about this row: the same key, or one of them within the other.
fn concerns(row: &str, setting: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
    };
    within(row, setting) || within(setting, row)
}
