//! [`TableWatcher`]: polls the registry's database while the program runs. So changes of `service_config` and `service_override`
//! apply within seconds, and an outage of the database is known.
//!
//! The tricky part is a pool whose connections are all in use: that is not an outage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::log::{debug, info, warn};
use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::Layer;
use crate::database::availability::Availability;
use crate::database::catch_up::{LastRun, SkippedFires, forget_fires, set_last_run_by};
use crate::database::config::rows::{TableRow, TableRows};
use crate::database::config::tables::{
    BadOverride, ConfigRow, Override, all_overrides, end_of, expire_overrides, is_expired, read_config,
};
use crate::database::db_time::DbTime;
use crate::database::error_kind::{ErrorKind, no_answer};
use crate::database::limited;
use crate::database::registry_pool::RegistryPool;
use crate::database::sqlite_connection;
use crate::database::sqlite_file::SqliteFile;
use crate::database::store::write_and_remove;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::humanize;
use crate::runtime::clock::Clock;
use crate::runtime::resource::DATABASE;
use crate::runtime::services::Services;
use crate::runtime::single_task::SingleTask;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// The time limit of one poll, if the registry has a direct connection; and of the poll at the start.
const POLL_TIMEOUT: Duration = Duration::from_secs(6);
/// The time limit of one poll, if the registry only has the services' pool.
const SHARED_POLL_TIMEOUT: Duration = Duration::from_secs(15);
/// How many polls close idle connections after the database's file was replaced.
const CLOSING_POLLS: u32 = 5;
/// How long the start waits between two attempts to read a table that another process has locked.
const LOCKED_INTERVAL: Duration = Duration::from_millis(200);
/// How long the removal of expired overrides may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);

/// Polls the registry's database: checks whether it answers, and reads the tables of the configuration.
#[derive(Debug)]
pub(crate) struct TableWatcher {
    pub(crate) pool: RegistryPool,
    pub(crate) availability: Availability,
    pub(crate) rows: TableRows,
    file: SqliteFile,
    skipped: SkippedFires,
    /// How many polls still close idle connections, because the database's file was replaced.
    closing: AtomicU32,
    watching: SingleTask,
    /// When the last poll began. Locked during a poll, so that results are applied in their order.
    polling: tokio::sync::Mutex<LastPoll>,
    state: Mutex<State>,
}

type LastPoll = Option<Instant>;

#[derive(Debug, Default)]
struct State {
    /// What each table had when it was read last.
    config: Vec<(String, TableRow)>,
    overrides: Vec<(String, TableRow)>,
    /// The database answers, but these tables cannot be read.
    unreadable: Option<&'static str>,
    /// When the next override expires.
    next_expiry: Option<DateTime<Utc>>,
    /// The last poll has found overrides that had expired by then.
    expired_by: Option<DateTime<Utc>>,
}

/// What one poll has read.
struct Tables {
    overrides: Result<Vec<(String, TableRow)>>,
    config: Result<Vec<(String, TableRow)>>,
}

/// Why one poll could not read a table. Each is read without the other: a lock on one must not end a pause.
#[derive(Default)]
struct Polled {
    overrides: Option<Error>,
    config: Option<Error>,
}

impl Polled {
    fn nothing(error: Error) -> Self {
        Self { overrides: Some(error.clone()), config: Some(error) }
    }

    fn unreadable(&self) -> Option<(&'static str, &Error)> {
        match (&self.overrides, &self.config) {
            (Some(error), Some(_)) => Some(("service_config and service_override", error)),
            (Some(error), None) => Some(("service_override", error)),
            (None, Some(error)) => Some(("service_config", error)),
            (None, None) => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("no answer within {} s", .0.as_secs())]
    Down(Duration),
    #[error("no answer within {} s: the database is down, or all connections of the pool are in use", .0.as_secs())]
    DownOrPoolExhausted(Duration),
    #[error("no answer within {} s: all connections of the pool are in use", .0.as_secs())]
    PoolExhausted(Duration),
}

impl TableWatcher {
    pub(crate) fn new(pool: RegistryPool, availability: Availability) -> Self {
        Self {
            pool,
            availability,
            rows: TableRows::default(),
            file: SqliteFile::default(),
            skipped: SkippedFires::default(),
            closing: AtomicU32::new(0),
            watching: SingleTask::default(),
            polling: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Waits for a poll in progress, and keeps the next ones from beginning until the guard is dropped.
    pub(crate) async fn hold(&self) -> impl Send {
        self.polling.lock().await
    }

    /// Whether the error only shows that the pool has no idle connection. An SQLite file answers at once, even if it
    /// cannot be opened, so there this is not an outage if the registry only has the services' pool.
    fn is_pool_exhausted(&self, error: &Error) -> bool {
        let no_connection = ErrorKind::in_chain(error) == Some(ErrorKind::PoolTimeout);
        self.pool.shares_sqlite() && (no_connection || error.find::<NoAnswer>().is_some())
    }

    /// Reads the tables once, before all services start. A database that is down delays the start by 6 s at most.
    ///
    /// # Errors
    /// The framework's tables are missing, and cannot or must not be created.
    pub(crate) async fn poll_before_start(&self, services: &Services) -> Result<()> {
        let begun = Instant::now();
        let mut polled = self.poll_within(services, POLL_TIMEOUT).await;
        // Another process holds a lock: services that it pauses must not start meanwhile.
        while polled.unreadable().is_some_and(|(_, error)| ErrorKind::is_own_wait(error))
            && begun.elapsed() < POLL_TIMEOUT
        {
            tokio::time::sleep(LOCKED_INTERVAL).await;
            polled = self.poll_within(services, POLL_TIMEOUT).await;
        }
        self.rows.set_started();
        if let Some((_, error)) = polled.unreadable()
            && !self.availability.is_down()
            && !self.is_pool_exhausted(error)
            && !self.availability.tables().are_ready()
            // The lock may be that under which tables are created: the next poll tries again.
            && !ErrorKind::is_own_wait(error)
        {
            return Err(error.clone());
        }
        Ok(())
    }

    /// Polls periodically until the registry is dropped or the runtime shuts down. Does nothing if a task polls
    /// already.
    pub(crate) fn keep_watching(self: &Arc<Self>, services: &Arc<Services>, runtime: &Handle) {
        let (services, watcher) = (Arc::downgrade(services), self.clone());
        self.watching.start(runtime, || async move {
            loop {
                // Sooner if a service could not use the database, but with a minimum wait.
                tokio::time::sleep(POLL_INTERVAL / 6).await;
                let probe = watcher.availability.probe_requested();
                let _ = tokio::time::timeout(POLL_INTERVAL - POLL_INTERVAL / 6, probe).await;
                let Some(services) = services.upgrade() else { return };
                watcher.poll_regularly(&services).await;
            }
        });
    }

    /// Polls before one service starts, so that the tables apply from its first instance on. Does nothing if the
    /// database is known to be down. Concurrent callers share one poll.
    pub(crate) async fn poll_if_up(&self, services: &Services) {
        if self.availability.is_down() {
            return;
        }
        let asked = Instant::now();
        let mut last_poll = self.polling.lock().await;
        if !self.availability.is_down() && last_poll.is_none_or(|began| began <= asked) {
            self.poll_exclusively(services, self.poll_timeout(), &mut last_poll).await;
        }
    }

    /// Reads the tables and applies what has changed. Reports once that the database is down, and once that it is up
    /// again. Returns why the overrides cannot be read.
    pub(crate) async fn poll(&self, services: &Services) -> Option<Error> {
        self.poll_within(services, self.poll_timeout()).await.overrides
    }

    /// What is done again and again: reads the tables, and records the fires that services skip. Returns whether the
    /// database answers.
    pub(crate) async fn poll_regularly(&self, services: &Services) -> bool {
        let polled = self.poll_within(services, self.poll_timeout()).await;
        let lacks_table = |(_, error): (_, &Error)| ErrorKind::in_chain(error) == Some(ErrorKind::Statement);
        if polled.unreadable().is_some_and(lacks_table) {
            // The database may have been made anew.
            self.availability.tables().forget();
        }
        if self.availability.is_down() || (polled.overrides.is_some() && polled.config.is_some()) {
            // The next poll tries again.
            return false;
        }
        let begun = Instant::now();
        for (service_id, last) in self.skipped.unrecorded(services) {
            if self.availability.is_down() {
                return false;
            }
            let record = self.record_last_run(&services.shared.clock, &service_id, &last);
            let recorded = tokio::time::timeout(self.poll_timeout(), record).await;
            match recorded.unwrap_or_else(|_| Err(Error::new(NoAnswer::Down(self.poll_timeout())))) {
                Ok(()) => self.skipped.recorded(service_id, &last),
                Err(error) => {
                    log_of(services, &service_id, || self.skipped.could_not_record(&service_id, &error));
                }
            }
            if begun.elapsed() >= POLL_INTERVAL {
                // The table may be locked, and the next poll must not be late.
                return true;
            }
        }
        let until = services.shared.clock.wall_now().into();
        let to_forget = self.skipped.to_forget(services);
        if !to_forget.is_empty() {
            let forget = tokio::time::timeout(self.poll_timeout(), self.forget_fires_until(&to_forget, until));
            match forget.await.unwrap_or_else(|_| Err(no_answer(self.poll_timeout()))) {
                Ok(()) => self.skipped.set_forgotten(to_forget),
                Err(error) => debug!("fires under an earlier schedule cannot be forgotten, trying again: {error:#}"),
            }
        }
        true
    }

    async fn forget_fires_until(&self, service_ids: &[Arc<str>], until: DateTime<Utc>) -> Result<()> {
        let forget = self.pool.with_db(|db| async move {
            let tx = self.pool.begin(&db).await?;
            forget_fires(&tx, service_ids, until).await?;
            Ok(limited::commit(tx).await?)
        });
        forget.await
    }

    /// Stores when a service last ran.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn record_last_run(&self, clock: &Clock, service_id: &str, last: &LastRun) -> Result<()> {
        let now = clock.wall_now().into();
        let record = self.pool.with_db(|db| async move {
            let tx = self.pool.begin(&db).await?;
            set_last_run_by(&tx, service_id, last, now).await?;
            Ok(limited::commit(tx).await?)
        });
        record.await
    }

    fn poll_timeout(&self) -> Duration {
        if self.pool.has_direct() { POLL_TIMEOUT } else { SHARED_POLL_TIMEOUT }
    }

    async fn poll_within(&self, services: &Services, poll_timeout: Duration) -> Polled {
        let mut last_poll = self.polling.lock().await;
        self.poll_exclusively(services, poll_timeout, &mut last_poll).await
    }

    async fn poll_exclusively(&self, services: &Services, poll_timeout: Duration, last_poll: &mut LastPoll) -> Polled {
        let began = Instant::now();
        let read = self.pool.with_spare(&self.pool.for_polls, |db| self.read(services, db));
        let rows = match tokio::time::timeout(poll_timeout, read).await {
            Ok(rows) => rows,
            Err(_) if self.pool.has_direct() => Err(Error::new(NoAnswer::Down(poll_timeout))),
            Err(_) if self.pool.shares_sqlite() => Err(Error::new(NoAnswer::PoolExhausted(poll_timeout))),
            Err(_) => Err(Error::new(NoAnswer::DownOrPoolExhausted(poll_timeout))),
        };
        // A poll that was cancelled does not count.
        *last_poll = Some(began);
        let error = match rows {
            Ok(rows) => {
                let refused =
                    if self.availability.needs_a_write() { self.write_probe(poll_timeout).await } else { None };
                match refused {
                    Some(error) => self.mark_down(&error, true),
                    None => self.mark_up(services),
                }
                let polled = self.apply(services, rows);
                self.report_unreadable(&polled);
                self.remove_expired(services).await;
                return polled;
            }
            Err(error) => error,
        };
        let pool_exhausted = self.is_pool_exhausted(&error);
        let is_outage =
            ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_outage) || error.find::<NoAnswer>().is_some();
        if !pool_exhausted && is_outage {
            self.mark_down(&error, false);
        } else {
            if !pool_exhausted {
                self.mark_up(services);
            }
            self.report_unreadable(&Polled::nothing(error.clone()));
        }
        Polled::nothing(error)
    }

    /// Applies what was read. For a table that could not be read, what was read last.
    fn apply(&self, services: &Services, tables: Tables) -> Polled {
        let mut polled = Polled::default();
        let rows = {
            let mut state = self.state.lock();
            match tables.config {
                Ok(rows) => state.config = rows,
                Err(error) => polled.config = Some(error),
            }
            match tables.overrides {
                Ok(rows) => state.overrides = rows,
                Err(error) => polled.overrides = Some(error),
            }
            let mut rows: BTreeMap<String, Vec<TableRow>> = BTreeMap::new();
            for (name, row) in state.config.iter().chain(&state.overrides) {
                rows.entry(name.clone()).or_default().push(row.clone());
            }
            rows
        };
        self.rows.apply_all(services, rows);
        polled
    }

    /// Reports once that tables cannot be read, and once that they can be read again.
    fn report_unreadable(&self, polled: &Polled) {
        let unreadable = polled.unreadable();
        let before = std::mem::replace(&mut self.state.lock().unreadable, unreadable.map(|(tables, _)| tables));
        match (before, unreadable) {
            (before, Some((tables, error))) if before != Some(tables) => {
                warn!("{tables} cannot be read, the values read last stay in effect: {error:#}");
            }
            (Some(tables), None) => info!("{tables} can be read again"),
            _ => {}
        }
    }

    /// Writes and commits, as a service does. Returns the error if the database accepts no writes.
    async fn write_probe(&self, limit: Duration) -> Option<Error> {
        let probe = self.pool.with_spare(&self.pool.for_polls, |db| async move {
            let tx = Transaction::begin_limited(&TxContext::new(db)).await?;
            write_and_remove(tx.connection().await?).await?;
            tx.commit().await
        });
        match tokio::time::timeout(limit, probe).await {
            Ok(Err(error)) if ErrorKind::in_chain(&error) == Some(ErrorKind::Unavailable) => Some(error),
            _ => None,
        }
    }

    fn mark_down(&self, error: &Error, refuses_writes: bool) {
        let name = self.availability.name();
        if self.availability.mark_down(format!("{error:#}"), refuses_writes) {
            let how = if refuses_writes { "accepts no writes" } else { "does not answer" };
            warn!(
                "the {name} {how}, services that need it wait; the values last read from service_config and \
                 service_override stay in effect: {error:#}"
            );
        }
    }

    /// The database has answered.
    fn mark_up(&self, services: &Services) {
        let Some(after) = self.availability.mark_up() else { return };
        info!("the {} answers again, after {}", self.availability.name(), humanize::long(after));
        services.end_outage(DATABASE);
    }

    /// If SQLite's file was removed or replaced, closes the connections to the old file, whose writes would be lost.
    async fn follow_file(&self, db: &DatabaseConnection) -> Result<()> {
        if self.file.was_replaced(db).await? {
            warn!("the file of the {} was removed or replaced; its connections are reopened", self.availability.name());
            self.availability.tables().forget();
            self.closing.store(CLOSING_POLLS, Ordering::Relaxed);
        }
        // Connections that are in use now are idle at one of the next polls.
        let left = self.closing.load(Ordering::Relaxed);
        if left > 0 {
            self.closing.store(left - 1, Ordering::Relaxed);
            sqlite_connection::close_idle(&self.pool.db).await;
        }
        Ok(())
    }

    /// The time by which overrides expire.
    pub(crate) async fn now(&self, services: &Services, db: &impl ConnectionTrait) -> Result<DateTime<Utc>> {
        // Overrides expire by the registry's clock, not by the database's.
        match self.pool.is_virtual {
            true => Ok(services.shared.clock.wall_now().into()),
            false => Ok(DbTime::Database.now(db).await?),
        }
    }

    /// Removes the overrides that have expired. They are not applied anyway, so this does not wait for the locks of
    /// others, and an error leaves them to the next poll.
    async fn remove_expired(&self, services: &Services) {
        let Some(now) = self.state.lock().expired_by.take() else { return };
        let removed = self.pool.with_spare(&self.pool.for_polls, |db| async move {
            let tx = self.pool.begin(&db).await?;
            let expired = expire_overrides(&tx, now).await?;
            limited::commit(tx).await?;
            Ok(expired)
        });
        if let Ok(Ok(expired)) = tokio::time::timeout(REMOVE_LIMIT, removed).await {
            for ended in expired {
                let Override { service_id, key, by, .. } = &ended;
                log_of(services, service_id, || {
                    info!(service.id = %service_id, "the override of `{key}` by {by} has expired");
                });
            }
        }
    }

    async fn read(&self, services: &Services, db: DatabaseConnection) -> Result<Tables> {
        self.follow_file(&db).await?;
        self.availability.tables().ensure(&db).await?;
        let mut tx = self.pool.begin(&db).await?;
        let overrides = self.read_overrides(services, &tx).await;
        // A stale statement is prepared again by the caller.
        let is_retried = |kind: ErrorKind| kind.is_outage() || kind == ErrorKind::StaleStatement;
        if let Err(error) = &overrides {
            if ErrorKind::in_chain(error).is_some_and(is_retried) {
                return Err(error.clone());
            }
            // The error has ended the transaction.
            drop(tx);
            tx = self.pool.begin(&db).await?;
        }
        let config = config_rows(&tx).await;
        if config.is_ok() {
            limited::commit(tx).await?;
        }
        match &config {
            Err(error) if ErrorKind::in_chain(error).is_some_and(is_retried) => Err(error.clone()),
            Err(error) if overrides.is_err() => Err(error.clone()),
            _ => Ok(Tables { overrides, config }),
        }
    }

    async fn read_overrides(&self, services: &Services, db: &impl ConnectionTrait) -> Result<Vec<(String, TableRow)>> {
        let now = self.now(services, db).await?;
        let overrides = all_overrides(db).await?.into_iter().map(|(_, found)| found);
        let (expired, overrides): (Vec<_>, Vec<_>) = overrides.partition(|found| is_expired(found, now));
        {
            let mut state = self.state.lock();
            state.next_expiry = overrides.iter().filter_map(end_of).min();
            state.expired_by = (!expired.is_empty()).then_some(now);
        }
        let table_row = |row: std::result::Result<Override, BadOverride>| match row {
            Ok(row) => {
                let (place, set_at) = (place(&row), row.at.into());
                let table_row = TableRow::new(Layer::Override, row.key, Ok(row.value), place);
                (row.service_id, table_row.set_at(set_at))
            }
            Err(bad) => {
                let place = format!("service_override, {} of {}", bad.key, bad.service_id);
                (bad.service_id, TableRow::new(Layer::Override, bad.key, Err(bad.reason), place))
            }
        };
        Ok(overrides.into_iter().map(table_row).collect())
    }

    /// When the next poll is due at the latest: an override expires, or a fire is skipped.
    pub(crate) fn next_due(&self, services: &Services) -> Option<SystemTime> {
        let expiry = self.state.lock().next_expiry.map(SystemTime::from);
        expiry.into_iter().chain(self.skipped.next(services)).min()
    }
}

/// Logs a line about the service of this id: with its labels, if this program has it.
fn log_of(services: &Services, service_id: &str, line: impl FnOnce()) {
    match services.get(service_id) {
        Some(service) => service.inner.log(line),
        None => line(),
    }
}

async fn config_rows(db: &impl ConnectionTrait) -> Result<Vec<(String, TableRow)>> {
    let table_row = |row: ConfigRow| {
        let place = format!("service_config, {} of {}", row.key, row.service_id);
        let value = row.value.map_err(|bad| bad.to_string());
        (row.service_id, TableRow::new(Layer::Table, row.key, value, place))
    };
    Ok(read_config(db).await?.into_iter().map(table_row).collect())
}

fn place(row: &Override) -> String {
    let until = row.until.map_or_else(String::new, |until| format!(", until {}", until.format("%Y-%m-%d %H:%M UTC")));
    let why = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
    format!("override by {} at {}{until}{why}", row.by, row.at.format("%Y-%m-%d %H:%M UTC"))
}
