//! [`StatementMonitor`]: whether a statement is in flight, for virtual time.
//!
//! Virtual time stands still while the database works. The tricky part is an open transaction: its connection is in
//! use, although the user's code may do something else for hours of virtual time. So the framework's transactions
//! report their statements.
//!
//! The order of statements must not depend on how long each of them takes in real time. A pool of one connection
//! executes one at a time, first come, first served; and each of them is sent when every other task waits, so that all
//! have come that will.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use sea_orm::prelude::async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
};

use tokio::sync::Notify;

use crate::database::driver::PoolSize;
#[cfg(feature = "postgres")]
use crate::database::driver::postgres_pool;
#[cfg(feature = "sqlite")]
use crate::database::driver::sqlite_pool;
use crate::database::error_kind::DbResult;
use crate::runtime::extension::{RealWork, RealWorkState};
use crate::runtime::lifecycle::BoxFuture;
use crate::sync::Mutex;

/// Watches the pool of a test bed and the transactions on it, for one replica.
pub(crate) struct StatementMonitor {
    shared: Arc<MonitoredPool>,
    /// The test has cut off this replica from the database.
    is_cut_off: Arc<AtomicBool>,
    /// The statements are the registry's own work, and not that of a service.
    is_registrys: bool,
    /// The number of the replica.
    replica: u32,
}

/// What the replicas on one pool share.
struct MonitoredPool {
    pool: OnceLock<DatabaseConnection>,
    /// A connection beside the pool that keeps its database in memory.
    kept: OnceLock<DatabaseConnection>,
    /// Open transactions in which no statement is in flight.
    waiting: AtomicU32,
    /// Called synchronously when a statement may begin, with whether it is the registry's own work.
    on_begin: Box<dyn Fn(bool) + Send + Sync>,
    /// The registry's own work is being polled.
    polls_registry: AtomicBool,
    /// Each replica has one, which is notified when a lease is released.
    replicas: Mutex<Vec<Arc<Notify>>>,
    /// How many replicas there have been.
    made: AtomicU32,
    /// The pool has one connection.
    in_turn: bool,
}

/// How often a task yields until every other task waits, which may wake each other a few times.
const TURNS: u32 = 64;

/// Waits until every other task of a runtime with one thread waits.
async fn every_task_waits() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

impl StatementMonitor {
    pub(crate) fn new(in_turn: bool, on_begin: impl Fn(bool) + Send + Sync + 'static) -> Self {
        let shared = MonitoredPool {
            pool: OnceLock::new(),
            kept: OnceLock::new(),
            waiting: AtomicU32::new(0),
            on_begin: Box::new(on_begin),
            polls_registry: AtomicBool::new(false),
            replicas: Mutex::default(),
            made: AtomicU32::new(1),
            in_turn,
        };
        Self { shared: Arc::new(shared), is_cut_off: Arc::default(), is_registrys: false, replica: 0 }
    }

    /// The monitor of another replica on the same pool.
    pub(crate) fn replica(&self) -> Self {
        let replica = self.shared.made.fetch_add(1, Ordering::SeqCst);
        Self { shared: self.shared.clone(), is_cut_off: Arc::default(), is_registrys: false, replica }
    }

    /// The monitor for the registry's own work on this replica.
    pub(crate) fn for_registry(&self) -> Self {
        let (shared, is_cut_off) = (self.shared.clone(), self.is_cut_off.clone());
        Self { shared, is_cut_off, is_registrys: true, replica: self.replica }
    }

    /// The number of the replica: they are numbered in the order in which they were made.
    pub(crate) fn replica_number(&self) -> u32 {
        self.replica
    }

    /// Awaits the registry's own work.
    pub(crate) async fn own<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|task| {
            self.shared.polls_registry.store(true, Ordering::SeqCst);
            let polled = work.as_mut().poll(task);
            self.shared.polls_registry.store(false, Ordering::SeqCst);
            polled
        })
        .await
    }

    /// Adds what is notified when a lease is released.
    pub(crate) fn add_replica(&self, released: Arc<Notify>) {
        self.shared.replicas.lock().push(released);
    }

    /// A lease was released.
    pub(crate) fn notify_replicas(&self) {
        let replicas = self.shared.replicas.lock();
        replicas.iter().for_each(|released| released.notify_one());
    }

    /// From now on, this replica reaches the database, or does not.
    pub(crate) fn cut_off(&self, is_cut_off: bool) {
        self.is_cut_off.store(is_cut_off, Ordering::SeqCst);
    }

    /// # Errors
    /// The test has cut off this replica from the database.
    pub(crate) fn check(&self) -> DbResult<()> {
        if !self.is_cut_off.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(DbErr::Conn(RuntimeErr::Internal("the test has cut off this replica from the database".to_owned())))
    }

    /// A statement is about to be sent. If the pool has one connection, every other task waits first.
    pub(crate) async fn wait_for_turn(&self) {
        if self.shared.in_turn {
            every_task_waits().await;
        }
    }

    /// Sets the pool, once, and the connection that keeps its database in memory.
    pub(crate) fn set_pool(&self, db: DatabaseConnection, kept: Option<DatabaseConnection>) {
        if let Some(kept) = kept {
            let _ = self.shared.kept.set(kept);
        }
        let _ = self.shared.pool.set(db);
    }

    /// A connection of the pool is about to be used.
    pub(crate) fn begin(&self) {
        (self.shared.on_begin)(self.is_registrys || self.shared.polls_registry.load(Ordering::SeqCst));
    }
}

impl RealWork for StatementMonitor {
    fn state(&self) -> RealWorkState {
        let waiting = self.shared.waiting.load(Ordering::SeqCst);
        match self.shared.pool.get().and_then(PoolSize::of) {
            Some(PoolSize { idle, open, most }) => RealWorkState {
                active: Some(open.saturating_sub(idle).saturating_sub(waiting)),
                closed: most.saturating_sub(open),
                waiting,
            },
            // It is not set yet, or its driver is the application's.
            None => RealWorkState { active: None, closed: 0, waiting },
        }
    }

    fn reopen(&self) -> BoxFuture<'static, ()> {
        let Some(db) = self.shared.pool.get() else { return Box::pin(std::future::ready(())) };
        #[cfg(feature = "sqlite")]
        if let Some(pool) = sqlite_pool(db) {
            return Box::pin(reopen(pool.clone()));
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = postgres_pool(db) {
            return Box::pin(reopen(pool.clone()));
        }
        let _ = db;
        Box::pin(std::future::ready(()))
    }

    fn executes(&self) -> BoxFuture<'static, Option<bool>> {
        #[cfg(feature = "postgres")]
        if let Some(pool) = self.shared.pool.get().and_then(postgres_pool) {
            let options = pool.connect_options();
            return Box::pin(async move { executes(&options).await.ok() });
        }
        // A SQLite database is part of this process: what it does cannot be asked for.
        Box::pin(std::future::ready(None))
    }
}

/// Whether the server executes a statement of this database's user. One that waits for a lock does not count: the
/// transaction that holds the lock may sleep.
#[cfg(feature = "postgres")]
async fn executes(options: &sea_orm::sqlx::postgres::PgConnectOptions) -> sea_orm::sqlx::Result<bool> {
    use sea_orm::sqlx::{Connection, PgConnection, query_scalar, raw_sql};

    const ACTIVE: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
        AND usename = current_user AND pid <> pg_backend_pid() AND state = 'active' \
        AND wait_event_type IS DISTINCT FROM 'Lock')";

    let mut connection = PgConnection::connect_with(options).await?;
    let before = query_scalar::<_, bool>(ACTIVE).fetch_one(&mut connection).await?;
    // On a busy machine, the server may not have begun a statement yet that was sent to it.
    raw_sql("SELECT pg_sleep(0.2)").execute(&mut connection).await?;
    let after = query_scalar::<_, bool>(ACTIVE).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(before || after)
}

/// Takes all connections of the pool until one must be opened, as often as necessary.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
async fn reopen<DB: sea_orm::sqlx::Database>(pool: sea_orm::sqlx::Pool<DB>) {
    let mut taken = Vec::new();
    while pool.size() < pool.options().get_max_connections() {
        match pool.acquire().await {
            Ok(connection) => taken.push(connection),
            Err(_) => return,
        }
    }
}

impl fmt::Debug for StatementMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementMonitor").field("waiting", &self.shared.waiting).finish_non_exhaustive()
    }
}

/// The connection of an open transaction, which reports each statement to the monitor, if there is one.
#[derive(Debug)]
pub(crate) struct MonitoredTx {
    presence: Option<Presence>,
    tx: DatabaseTransaction,
}

impl MonitoredTx {
    pub(crate) fn new(tx: DatabaseTransaction, monitor: Option<Arc<StatementMonitor>>) -> Self {
        Self { presence: monitor.map(Presence::new), tx }
    }

    /// The transaction itself, for its end.
    pub(crate) fn into_inner(self) -> DatabaseTransaction {
        self.tx
    }

    /// The transaction itself, for a savepoint. Its statements are not reported, so from now on the connection counts
    /// as in use, until [`savepoint_ended`](Self::savepoint_ended).
    pub(crate) fn for_savepoint(&self) -> &DatabaseTransaction {
        if let Some(presence) = &self.presence {
            presence.begin_savepoint();
        }
        &self.tx
    }

    /// No savepoint of the user's is open.
    pub(crate) fn savepoint_ended(&self) {
        if let Some(presence) = &self.presence {
            presence.end_savepoint();
        }
    }

    /// The commit is next.
    ///
    /// # Errors
    /// The test has cut off this replica from the database.
    pub(crate) async fn before_commit(&self) -> DbResult<()> {
        self.statement().await.map(drop)
    }

    fn check(&self) -> DbResult<()> {
        self.presence.as_ref().map_or(Ok(()), |presence| presence.monitor.check())
    }

    /// As those of the trait, without a boxed future: they are called for each row.
    pub(crate) async fn execute_raw(&self, statement: Statement) -> DbResult<ExecResult> {
        let _in_flight = self.statement().await?;
        self.tx.execute_raw(statement).await
    }

    pub(crate) async fn execute_unprepared(&self, sql: &str) -> DbResult<ExecResult> {
        let _in_flight = self.statement().await?;
        self.tx.execute_unprepared(sql).await
    }

    async fn statement(&self) -> DbResult<Option<InFlight<'_>>> {
        self.check()?;
        let Some(presence) = &self.presence else { return Ok(None) };
        let in_flight = presence.statement();
        presence.monitor.wait_for_turn().await;
        Ok(Some(in_flight))
    }
}

#[async_trait]
impl ConnectionTrait for MonitoredTx {
    fn get_database_backend(&self) -> DbBackend {
        self.tx.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> DbResult<ExecResult> {
        Self::execute_raw(self, statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> DbResult<ExecResult> {
        Self::execute_unprepared(self, sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> DbResult<Option<QueryResult>> {
        let _in_flight = self.statement().await?;
        self.tx.query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> DbResult<Vec<QueryResult>> {
        let _in_flight = self.statement().await?;
        self.tx.query_all_raw(statement).await
    }
}

/// Counts an open transaction as waiting, except while a statement is in flight.
#[derive(Debug)]
struct Presence {
    monitor: Arc<StatementMonitor>,
    in_flight: AtomicU32,
    in_savepoint: AtomicBool,
}

impl Presence {
    fn new(monitor: Arc<StatementMonitor>) -> Self {
        monitor.shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self { monitor, in_flight: AtomicU32::new(0), in_savepoint: AtomicBool::new(false) }
    }

    fn statement(&self) -> InFlight<'_> {
        self.begin();
        InFlight(self)
    }

    fn begin(&self) {
        if self.in_flight.fetch_add(1, Ordering::SeqCst) == 0 {
            self.monitor.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.monitor.begin();
    }

    fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.monitor.shared.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn begin_savepoint(&self) {
        if !self.in_savepoint.swap(true, Ordering::SeqCst) {
            self.begin();
        }
    }

    fn end_savepoint(&self) {
        if self.in_savepoint.swap(false, Ordering::SeqCst) {
            self.end();
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.in_flight.load(Ordering::SeqCst) == 0 {
            self.monitor.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        // A rollback or commit follows.
        self.monitor.begin();
    }
}

struct InFlight<'a>(&'a Presence);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
