//! The rows of the leases: `service_lease` has who holds each lease and until when, `service_epoch` the number of the
//! last takeover.
//!
//! Times of leases are compared in the database alone: on PostgreSQL by its clock, because those of the replicas
//! differ; on SQLite by the time since the start of the machine, together with what identifies that start, because all
//! replicas are on one machine. On other systems than Linux it is the machine's wall clock there.
//!
//! The epoch has a row of its own, because commits of the holder lock it. Only a takeover changes it, and first of all
//! its statements: so it waits for commits in flight before it looks whether the lease is free, and not after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};

use crate::cluster::clock::IS_SHARED;
use crate::cluster::identity::Identity;
use crate::database::db_time::database_millis;
use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::registry_db::RegistryDb;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::log::warn;
use crate::runtime::lease::LeaseClock;
use crate::runtime::leases::LeaseRow;
use crate::service::error::Result;
use crate::sync::Mutex;

/// Access to the leases for one replica.
#[derive(Debug)]
pub(super) struct LeaseTable {
    pub(super) db: RegistryDb,
    clock: Arc<dyn LeaseClock>,
    pub(super) replica: Identity,
    /// Identifies the start of the machine, where times count from it.
    boot: String,
    /// The rows that were reported as unreadable.
    reported: Mutex<BTreeSet<String>>,
}

/// What a renewal has done.
#[derive(Debug)]
pub(super) struct Renewed {
    /// The services whose leases are renewed.
    pub(super) ids: Vec<String>,
    /// Those whose leases this replica has, and could not renew: another session has locked their rows.
    pub(super) locked: Vec<String>,
    /// When the request was sent.
    pub(super) sent: Duration,
}

/// A lease that this replica has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) epoch: u64,
    /// When the request was sent that set the expiry, by the clock of leases.
    pub(super) sent: Duration,
    /// How long ago the first replica took it.
    pub(super) first: Duration,
    /// How long ago the schedule's last point was.
    pub(super) last: Option<Duration>,
    /// How long ago a replica handed the service over.
    pub(super) moved: Option<Duration>,
}

impl LeaseTable {
    pub(super) fn new(db: RegistryDb, clock: Arc<dyn LeaseClock>) -> Self {
        let boot = match (db.backend(), db.is_virtual()) {
            (_, true) | (DbBackend::Postgres, false) => String::new(),
            _ => crate::cluster::clock::boot_id(),
        };
        let number = db.monitor.as_ref().map(|monitor| monitor.replica_number());
        Self { db, clock, replica: Identity::of_process(number), boot, reported: Mutex::default() }
    }

    /// Renews these leases, as far as this replica still has them.
    pub(super) async fn renew(&self, ids: &[Arc<str>], limit: Duration) -> Result<Renewed> {
        let renew = self.db.renew(limit, |cx| async move {
            let mut sent = Duration::ZERO;
            let renew = || {
                sent = self.clock.now();
                self.renewal(ids, "")
            };
            // The usual case takes one round trip.
            match self.db.execute(&cx, limit, renew).await {
                Ok(renewed) if usize::try_from(renewed) == Ok(ids.len()) => {
                    let ids = ids.iter().map(|id| id.to_string()).collect();
                    Ok(Renewed { ids, locked: Vec::new(), sent })
                }
                Err(error) if ErrorKind::in_chain(&error) != Some(ErrorKind::Contention) => Err(error),
                _ => self.renew_some(&cx, ids).await,
            }
        });
        renew.await
    }

    /// Renews those of these leases whose rows no other session has locked.
    async fn renew_some(&self, cx: &TxContext, ids: &[Arc<str>]) -> Result<Renewed> {
        let tx = Transaction::begin_limited(cx).await?;
        let sent = self.clock.now();
        let is_postgres = self.db.backend() == DbBackend::Postgres;
        let unlocked = match is_postgres {
            true => " AND service_id IN (SELECT service_id FROM service_lease WHERE owner = $1 FOR UPDATE SKIP LOCKED)",
            false => "",
        };
        let ids_of = |rows: Vec<QueryResult>| {
            rows.iter().map(|row| row.try_get("", "service_id")).collect::<DbResult<Vec<String>>>()
        };
        let mut renewal = self.renewal(ids, unlocked);
        renewal.sql += " RETURNING service_id";
        let renewed = ids_of(tx.query_all_raw(renewal).await?)?;
        let sql = format!("SELECT service_id FROM service_lease WHERE {}", self.is_held());
        let held = ids_of(tx.query_all_raw(self.statement(&sql, [self.owner(), self.boot(), self.list(ids)])).await?)?;
        tx.commit().await?;
        let locked = held.into_iter().filter(|id| !renewed.contains(id)).collect();
        Ok(Renewed { ids: renewed, locked, sent })
    }

    fn renewal(&self, ids: &[Arc<str>], condition: &str) -> Statement {
        let (now, is_held) = (self.now(), self.is_held());
        let sql = format!("UPDATE service_lease SET expires_at = {now} + lease_ms WHERE {is_held}{condition}");
        self.statement(&sql, [self.owner(), self.boot(), self.list(ids)])
    }

    /// The condition that this replica holds the lease: its owner, what identifies the start of the machine, and a list
    /// of ids are the parameters.
    fn is_held(&self) -> String {
        format!("owner = $1 AND boot = $2 AND expires_at > {} AND {}", self.now(), self.is_one_of("$3"))
    }

    /// Reads these leases. Those that no replica has ever taken have no row.
    pub(super) async fn read(&self, ids: &[Arc<str>], limit: Duration) -> Result<BTreeMap<String, LeaseRow>> {
        let read = self.db.run(limit, |cx| async move {
            let wall_now = self.wall_now();
            let sql = format!(
                "SELECT service_id, owner, label, epoch, lease_ms, \
                 CASE WHEN boot = $1 THEN expires_at - {} ELSE 0 END AS left_ms, \
                 CASE WHEN moved_to <> $2 AND moved_at > {wall_now} - {PRECEDENCE_MS} AND moved_at <= {wall_now} \
                 THEN 1 ELSE 0 END AS reserved \
                 FROM service_lease WHERE {}",
                self.now(),
                self.is_one_of("$3")
            );
            let query = self.statement(&sql, [self.boot(), self.owner(), self.list(ids)]);
            let rows = self.db.query(&cx, query).await?;
            Ok(rows.iter().map(lease_row).collect::<DbResult<_>>()?)
        });
        read.await
    }

    /// Counts the valid leases of each replica.
    pub(super) async fn count_leases(&self, limit: Duration) -> Result<BTreeMap<String, usize>> {
        let count = self.db.run(limit, |cx| async move {
            let sql = format!(
                "SELECT owner, count(*) AS leases FROM service_lease WHERE boot = $1 AND expires_at > {} GROUP BY owner",
                self.now()
            );
            let rows = self.db.query(&cx, self.statement(&sql, [self.boot()])).await?;
            let count = |row: &QueryResult| {
                let leases: i64 = row.try_get("", "leases")?;
                Ok((row.try_get("", "owner")?, usize::try_from(leases).unwrap_or_default()))
            };
            Ok(rows.iter().map(count).collect::<DbResult<_>>()?)
        });
        count.await
    }

    /// Takes the lease of a service if it is free. `None`: it is not. `is_new`: it may have no row yet.
    pub(super) async fn take(
        &self,
        id: &Arc<str>,
        is_new: bool,
        length: Duration,
        limit: Duration,
    ) -> Result<Option<Taken>> {
        self.db.run(limit, |cx| self.take_in(cx, id, is_new, length)).await
    }

    async fn take_in(&self, cx: TxContext, id: &Arc<str>, is_new: bool, length: Duration) -> Result<Option<Taken>> {
        // It waits for commits of the former holder. If that takes too long, the next poll tries again.
        let tx = Transaction::begin_limited(&cx).await?;
        let id = || Value::from(&**id);
        let next = "UPDATE service_epoch SET epoch = epoch + 1 WHERE service_id = $1 RETURNING epoch";
        if is_new {
            let insert = format!(
                "INSERT INTO service_lease (service_id, owner, label, epoch, boot, lease_ms, expires_at, created_at) \
                 VALUES ($1, '', '', 0, '', 0, 0, {}) ON CONFLICT (service_id) DO NOTHING",
                self.wall_now()
            );
            tx.execute_raw(self.statement(&insert, [id()])).await?;
        }
        let mut row = tx.query_one_raw(self.statement(next, [id()])).await?;
        if row.is_none() {
            // The epoch in the lease is a copy: should the row itself be removed, it goes on from there.
            let insert = "INSERT INTO service_epoch (service_id, epoch) SELECT service_id, epoch FROM service_lease \
                          WHERE service_id = $1 ON CONFLICT (service_id) DO NOTHING";
            tx.execute_raw(self.statement(insert, [id()])).await?;
            row = tx.query_one_raw(self.statement(next, [id()])).await?;
        }
        let Some(row) = row else { return Ok(None) };
        let epoch: i64 = row.try_get("", "epoch")?;
        let (sent, now) = (self.clock.now(), self.now());
        let wall_now = self.wall_now();
        // Its own lease is free for this replica: it does not run the service.
        let sql = format!(
            "UPDATE service_lease SET owner = $2, label = $3, epoch = $4, boot = $5, lease_ms = $6, expires_at = {now} + $6 \
             WHERE service_id = $1 AND NOT (owner <> $2 AND boot = $5 AND expires_at > {now}) \
             RETURNING {wall_now} - created_at AS first_ms, {wall_now} - last_point AS last_ms, \
             {wall_now} - moved_at AS moved_ms"
        );
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX / 2);
        let values = [id(), self.owner(), self.replica.label().into(), epoch.into(), self.boot(), length.into()];
        // Without a row, the transaction is dropped, and the epoch stays.
        let Some(row) = tx.query_one_raw(self.statement(&sql, values)).await? else { return Ok(None) };
        let (first, last): (i64, Option<i64>) = (row.try_get("", "first_ms")?, row.try_get("", "last_ms")?);
        let moved: Option<i64> = row.try_get("", "moved_ms")?;
        tx.commit().await?;
        let epoch = u64::try_from(epoch).unwrap_or_default();
        Ok(Some(Taken { epoch, sent, first: millis(first), last: last.map(millis), moved: moved.map(millis) }))
    }

    /// Releases the lease of this epoch, so that another replica may take it at once, and notifies the other replicas.
    pub(super) async fn release(&self, id: &str, epoch: u64, target: Option<&str>, limit: Duration) -> Result<()> {
        let release = self.db.run(limit, |cx| async move {
            let tx = Transaction::begin_limited(&cx).await?;
            // A request that arrives late must not end a later lease.
            let moved = if target.is_some() { self.wall_now() } else { "moved_at".to_owned() };
            let sql = format!(
                "UPDATE service_lease SET expires_at = 0, moved_at = {moved}, moved_to = $4 \
                 WHERE service_id = $1 AND owner = $2 AND epoch = $3"
            );
            let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
            tx.execute_raw(self.statement(&sql, [id.into(), self.owner(), epoch.into(), target.into()])).await?;
            self.announce(&tx).await?;
            tx.commit().await
        });
        release.await
    }

    /// Notifies the other replicas when this transaction commits: a lease is released, or there is a request.
    pub(super) async fn announce(&self, tx: &Transaction) -> Result<()> {
        if self.db.backend() == DbBackend::Postgres && !self.db.is_virtual() {
            self.db.notifier.announce_released(tx).await?;
        }
        Ok(())
    }

    /// On virtual time, the replicas in this process take the place of those that the database notifies.
    pub(super) fn notify_replicas(&self) {
        if let Some(monitor) = &self.db.monitor {
            monitor.notify_replicas();
        }
    }

    /// Records how long ago the schedule's last point was.
    pub(super) async fn record_point(&self, id: &str, epoch: u64, age: Duration, limit: Duration) -> Result<()> {
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        let age = as_millis(age);
        let record = || {
            let sql = format!(
                "UPDATE service_lease SET last_point = {} - $4 WHERE service_id = $1 AND owner = $2 AND epoch = $3",
                self.wall_now()
            );
            self.statement(&sql, [id.into(), self.owner(), epoch.into(), age.into()])
        };
        self.db.write(limit, record).await.map(drop)
    }

    /// Returns what was read of a row. A row that cannot be read is reported once, and left out: another program may
    /// have written it, and SQLite accepts any value.
    pub(super) fn readable<T>(&self, table: &str, row: &QueryResult, read: DbResult<T>) -> Option<T> {
        let error = match read {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let id = row.try_get::<String>("", "id").unwrap_or_default();
        let is_news = self.reported.lock().insert(format!("{table} {id}"));
        if is_news {
            warn!("the row `{id}` of {table} is ignored, it cannot be read: {error}");
        }
        None
    }

    // ── parts of statements ─────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn statement<const N: usize>(&self, sql: &str, values: [Value; N]) -> Statement {
        Statement::from_sql_and_values(self.db.backend(), sql, values)
    }

    pub(super) fn owner(&self) -> Value {
        self.replica.owner.as_str().into()
    }

    pub(super) fn boot(&self) -> Value {
        self.boot.as_str().into()
    }

    /// The time by which leases expire, in milliseconds, as SQL.
    pub(super) fn now(&self) -> String {
        let is_own = self.db.is_virtual() || self.db.backend() != DbBackend::Postgres && IS_SHARED;
        if is_own { self.clock.now().as_millis().to_string() } else { self.wall_now() }
    }

    /// The time by which schedules continue, in milliseconds, as SQL. It goes on when the machine is started again.
    pub(super) fn wall_now(&self) -> String {
        match self.db.is_virtual() {
            true => self.clock.now().as_millis().to_string(),
            false => database_millis(self.db.backend()).to_owned(),
        }
    }

    /// A further condition for rows to be removed: on SQLite a time can be a text, which is later than any number.
    pub(super) fn or_no_number(&self, column: &str) -> String {
        match self.db.backend() {
            DbBackend::Sqlite => format!(" OR typeof({column}) <> 'integer'"),
            _ => String::new(),
        }
    }

    /// A list of ids as one value. No id contains a comma or a quote.
    fn list(&self, ids: &[Arc<str>]) -> Value {
        match self.db.backend() {
            DbBackend::Postgres => ids.join(",").into(),
            _ => format!("[\"{}\"]", ids.join("\",\"")).into(),
        }
    }

    fn is_one_of(&self, list: &str) -> String {
        match self.db.backend() {
            DbBackend::Postgres => format!("service_id = ANY(string_to_array({list}, ','))"),
            _ => format!("service_id IN (SELECT value FROM json_each({list}))"),
        }
    }
}

/// For how long the replica to which a service was handed over has precedence.
const PRECEDENCE_MS: i64 = 5_000;

fn lease_row(row: &QueryResult) -> DbResult<(String, LeaseRow)> {
    let (lease, left): (i64, i64) = (row.try_get("", "lease_ms")?, row.try_get("", "left_ms")?);
    let epoch: i64 = row.try_get("", "epoch")?;
    let lease_row = LeaseRow {
        owner: row.try_get("", "owner")?,
        label: row.try_get("", "label")?,
        epoch: u64::try_from(epoch).unwrap_or_default(),
        renewed: millis(lease - left),
        left: millis(left),
        is_reserved: row.try_get::<i32>("", "reserved")? == 1,
    };
    Ok((row.try_get("", "service_id")?, lease_row))
}

pub(super) fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn millis(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or_default())
}
