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
use crate::database::error_kind::ErrorKind;
use crate::humanize;
use crate::panic::{self, Caught};
use crate::registry::{Inner, ServiceRegistry};
use crate::runtime::entry::Entry;
use crate::runtime::shared::Hub;
use crate::service::error::{Error, Result};

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Limit of one poll, on the registry's own pool and at start.
const POLL_TIMEOUT: Duration = Duration::from_secs(6);
/// Limit of one poll on a pool that services use too.
pub(crate) const SHARED_POLL_TIMEOUT: Duration = Duration::from_secs(15);

/// The state of the table layers.
#[derive(Debug, Default)]
pub(crate) struct TableWatcher {
    watching: AtomicBool,
    /// One look at a time, so that no older one is applied last; and when the last one began.
    polling: tokio::sync::Mutex<LastPoll>,
    state: Mutex<State>,
}

type LastPoll = Option<Instant>;

#[derive(Debug, Default)]
struct State {
    /// The rows of each service, as read from the tables.
    rows: BTreeMap<Arc<str>, Vec<TableRow>>,
    /// The rows that were applied.
    applied: BTreeMap<Arc<str>, Vec<TableRow>>,
    /// The last valid value of each row.
    last_valid: BTreeMap<(Arc<str>, Slot), Value>,
    reported: HashSet<String>,
    /// The database answers, but not with the tables' rows.
    unreadable: bool,
}

/// A row of a table: its layer, its key, and whether it is for all services.
type Slot = (Layer, String, bool);

/// One row as it stands in its table.
#[derive(Clone, Debug, PartialEq)]
struct TableRow {
    layer: Layer,
    key: String,
    is_default: bool,
    value: Value,
    place: String,
    /// Why it says nothing at all; then the value is none.
    problem: Option<String>,
}

impl TableRow {
    fn new(layer: Layer, key: String, value: std::result::Result<Value, String>, place: String) -> Self {
        let (value, problem) = value.map_or_else(|problem| (Value::Null, Some(problem)), |value| (value, None));
        Self { layer, key, is_default: false, value, place, problem }
    }

    fn slot(&self) -> Slot {
        (self.layer, self.key.clone(), self.is_default)
    }

    /// "pause" is what an operator does, `paused` what the service is then; but it may have a setting of that name.
    fn normalized(mut self, own: Option<&[&str]>) -> Self {
        if self.layer == Layer::Override && self.key == "pause" && !own.is_some_and(|own| own.contains(&"pause")) {
            self.key = PAUSED.to_owned();
        }
        self
    }

    /// What is wrong with it whoever it is for.
    fn problem(&self, service: &str) -> Option<ConfigError> {
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

impl TableWatcher {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("no answer within {} s", .0.as_secs())]
    Down(Duration),
    #[error("no answer within {} s: it is away, or all connections of its pool are in use", .0.as_secs())]
    DownOrPoolExhausted(Duration),
    #[error("no answer within {} s: all connections of its pool are in use", .0.as_secs())]
    PoolExhausted(Duration),
}

/// Whether it says no more than that a pool has no connection to spare. A file answers at once, if only that it cannot be
/// opened, so on SQLite nobody who shares the services' pool takes this for an outage.
fn is_pool_exhausted(hub: &Hub, error: &Error) -> bool {
    let no_connection = matches!(error.find(), Some(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)));
    shares_sqlite(hub) && (no_connection || error.find::<NoAnswer>().is_some())
}

fn shares_sqlite(hub: &Hub) -> bool {
    let is_sqlite = |db: &DatabaseConnection| db.get_database_backend() == DbBackend::Sqlite;
    !hub.presence.has_registry_pool() && hub.database.as_ref().is_some_and(is_sqlite)
}

/// Reads the tables once, before everything starts. A database that is away delays that by a few seconds at most.
///
/// # Errors
/// The framework's tables are missing and cannot, or shall not, be made.
pub(crate) async fn poll_before_start(registry: &ServiceRegistry) -> Result<()> {
    let inner = &registry.inner;
    if inner.hub.database.is_none() {
        return Ok(());
    }
    if let Some(error) = poll_within(registry, POLL_TIMEOUT).await
        && !inner.hub.presence.is_down()
        && !is_pool_exhausted(&inner.hub, &error)
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
            tokio::time::sleep(POLL_INTERVAL / 6).await;
            let _ = tokio::time::timeout(POLL_INTERVAL - POLL_INTERVAL / 6, hub.presence.probe_requested()).await;
            let Some(inner) = watching.0.upgrade() else { return };
            poll(&ServiceRegistry { inner }).await;
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
/// known to be down. Concurrent callers share one poll.
pub(crate) async fn poll_if_up(registry: &ServiceRegistry) {
    let Inner { hub, live, .. } = &*registry.inner;
    if hub.database.is_none() || hub.presence.is_down() {
        return;
    }
    let asked = Instant::now();
    let mut last_poll = live.polling.lock().await;
    if !hub.presence.is_down() && last_poll.is_none_or(|began| began <= asked) {
        poll_exclusively(registry, poll_timeout(registry), &mut last_poll).await;
    }
}

/// Whether the database is down. Polls it unless that is known already.
pub(crate) async fn confirm_down(registry: &ServiceRegistry) -> bool {
    poll_if_up(registry).await;
    registry.inner.hub.presence.is_down()
}

/// Reads the tables and applies what has changed; says once that the database is away, and once that it is back.
pub(crate) async fn poll(registry: &ServiceRegistry) -> Option<Error> {
    poll_within(registry, poll_timeout(registry)).await
}

fn poll_timeout(registry: &ServiceRegistry) -> Duration {
    if registry.inner.hub.presence.has_registry_pool() { POLL_TIMEOUT } else { SHARED_POLL_TIMEOUT }
}

async fn poll_within(registry: &ServiceRegistry, poll_timeout: Duration) -> Option<Error> {
    let mut last_poll = registry.inner.live.polling.lock().await;
    poll_exclusively(registry, poll_timeout, &mut last_poll).await
}

async fn poll_exclusively(
    registry: &ServiceRegistry,
    poll_timeout: Duration,
    last_poll: &mut LastPoll,
) -> Option<Error> {
    let Inner { hub, live, .. } = &*registry.inner;
    let began = Instant::now();
    let rows = match tokio::time::timeout(poll_timeout, read(registry)).await {
        Ok(rows) => rows,
        Err(_) if hub.presence.has_registry_pool() => Err(Error::new(NoAnswer::Down(poll_timeout))),
        Err(_) if shares_sqlite(hub) => Err(Error::new(NoAnswer::PoolExhausted(poll_timeout))),
        Err(_) => Err(Error::new(NoAnswer::DownOrPoolExhausted(poll_timeout))),
    };
    // One that was cut short is none.
    *last_poll = Some(began);
    let name = hub.presence.name();
    let error = match rows {
        Ok(rows) => {
            mark_up(registry);
            if std::mem::take(&mut live.state().unreadable) {
                info!("service_config and service_override can be read again");
            }
            apply_all(registry, rows);
            return None;
        }
        Err(error) => error,
    };
    let pool_exhausted = is_pool_exhausted(hub, &error);
    if !pool_exhausted
        && (ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_outage) || error.find::<NoAnswer>().is_some())
    {
        if hub.presence.mark_down(format!("{error:#}")) {
            warn!(
                "the {name} does not answer, services that need it wait; what service_config and service_override said \
                 before still holds: {error:#}"
            );
        }
    } else {
        if !pool_exhausted {
            mark_up(registry);
        }
        if !std::mem::replace(&mut live.state().unreadable, true) {
            warn!("service_config and service_override cannot be read, what they said before still holds: {error:#}");
        }
    }
    Some(error)
}

/// It has answered.
fn mark_up(registry: &ServiceRegistry) {
    let presence = &registry.inner.hub.presence;
    let Some(after) = presence.mark_up() else { return };
    info!("the {} answers again, after {}", presence.name(), humanize::long(after));
    for entry in registry.entries() {
        entry.database_is_back();
    }
}

async fn read(registry: &ServiceRegistry) -> Result<BTreeMap<String, Vec<TableRow>>> {
    let hub = &registry.inner.hub;
    let Some(db) = &hub.database else { return Ok(BTreeMap::new()) };
    let db = hub.presence.registry_pool(db);
    hub.presence.tables().ensure(db).await?;
    let now = hub.clock.wall_now().into();
    for ended in expire_overrides(db, now).await? {
        info!(service.id = %ended.service_id, "the override of `{}` by {} has ended", ended.key, ended.by);
    }
    let mut rows: BTreeMap<String, Vec<TableRow>> = BTreeMap::new();
    for row in read_config(db).await? {
        let place = format!("service_config, {} of {}", row.key, row.service_id);
        let table_row = TableRow::new(Layer::Table, row.key, row.value.map_err(|bad| bad.to_string()), place);
        rows.entry(row.service_id).or_default().push(table_row);
    }
    for row in read_overrides(db, now).await? {
        let (service, table_row) = match row {
            Ok(row) => {
                let place = place(&row);
                (row.service_id, TableRow::new(Layer::Override, row.key, Ok(row.value), place))
            }
            Err(bad) => {
                let place = format!("service_override, {} of {}", bad.key, bad.service_id);
                (bad.service_id, TableRow::new(Layer::Override, bad.key, Err(bad.reason), place))
            }
        };
        rows.entry(service).or_default().push(table_row);
    }
    Ok(rows)
}

fn place(row: &Override) -> String {
    let until = row.until.map_or_else(String::new, |until| format!(", until {}", until.format("%Y-%m-%d %H:%M UTC")));
    let why = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
    format!("override by {} at {}{until}{why}", row.by, row.at.format("%Y-%m-%d %H:%M UTC"))
}

fn report(live: &TableWatcher, service: &str, place: &str, problem: &str) {
    let line = format!("{place}: {problem}");
    if live.state().reported.insert(format!("{service} {line}")) {
        warn!(service.id = %service, "ignored, what held before still does: {line}");
    }
}

fn apply_all(registry: &ServiceRegistry, mut rows: BTreeMap<String, Vec<TableRow>>) {
    let mut defaults = rows.remove("defaults").unwrap_or_default();
    for row in &mut defaults {
        row.is_default = true;
    }
    for entry in registry.entries() {
        let mut current = defaults.clone();
        current.extend(rows.remove(&*entry.id).unwrap_or_default());
        let previous = registry.inner.live.state().rows.get(&entry.id).cloned().unwrap_or_default();
        if previous != current {
            apply(registry, &entry, &current);
            registry.inner.live.state().rows.insert(entry.id.clone(), current);
        }
    }
}

/// Resolves a service's configuration with these rows. An invalid row is replaced by its last valid value.
fn apply(registry: &ServiceRegistry, entry: &Entry, rows: &[TableRow]) {
    let Inner { sources, live, .. } = &*registry.inner;
    let mut rejected = Vec::new();
    let own_names = entry.descriptor.setting_names();
    let rows: Vec<TableRow> = rows.iter().map(|row| row.clone().normalized(own_names)).collect();
    // What a row that is gone said is forgotten with it.
    live.state().last_valid.retain(|(id, slot), _| *id != entry.id || rows.iter().any(|row| row.slot() == *slot));
    let rows = rows.into_iter().filter_map(|row| {
        let Some(problem) = row.problem(&entry.id) else { return Some(row) };
        report(live, &entry.id, &row.place, &problem.to_string());
        rejected.push(problem);
        let last_valid = live.state().last_valid.get(&(entry.id.clone(), row.slot())).cloned();
        last_valid.map(|value| TableRow { value, problem: None, ..row })
    });
    let (pauses, mut rows): (Vec<TableRow>, Vec<TableRow>) = rows.partition(|row| row.key == PAUSED);
    let resolved = loop {
        let layer_rows: Vec<Row> =
            rows.iter().map(|row| sources.row(row.layer, &row.key, row.value.clone(), &row.place)).collect();
        let resolved = match sources.resolve(&entry.id, Some(entry.descriptor), entry.code.as_deref(), &layer_rows) {
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
        // Each turn removes a row or restores its last valid value, so this ends.
        let before = rows.len();
        let mut replaced = false;
        for error in wrong {
            let Some(setting) = error.setting() else { continue };
            let Some(at) = rows.iter().position(|row| row.layer == setting.layer && concerns(&row.key, &setting.key))
            else {
                continue;
            };
            report(live, &entry.id, &rows[at].place, &error.to_string());
            let last_valid = live.state().last_valid.get(&(entry.id.clone(), rows[at].slot())).cloned();
            match last_valid {
                Some(value) if value != rows[at].value => rows[at].value = value,
                _ => {
                    rows.remove(at);
                }
            }
            replaced = true;
            rejected.push(error);
        }
        if !replaced && rows.len() == before {
            break resolved;
        }
    };
    {
        let mut state = live.state();
        for row in rows.iter().chain(&pauses) {
            state.last_valid.insert((entry.id.clone(), row.slot()), row.value.clone());
        }
    }
    let resolved = if rejected.is_empty() { resolved } else { Arc::new(Resolved { rejected, ..(*resolved).clone() }) };
    let own_changed = own(&rows) != own(&live.state().applied.get(&entry.id).cloned().unwrap_or_default());
    live.state().applied.insert(entry.id.clone(), rows);
    entry.reconfigure(resolved, own_changed);
    // The later layer wins; where one says it twice, in both spellings, the pause does.
    let last = pauses.last().map(|row| (row.is_default, row.layer));
    let pause =
        pauses.into_iter().rfind(|row| last == Some((row.is_default, row.layer)) && row.value == Value::Bool(true));
    let pause = pause.map(|row| if row.layer == Layer::Override { format!("an {}", row.place) } else { row.place });
    entry.pause_by_override(pause);
}

/// The rows that are settings of the service's own.
fn own(rows: &[TableRow]) -> Vec<(String, Value)> {
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
