//! The test bed with a database: virtual time is exact, fast, and independent of the machine.
//!
//! Some cases measure real time, since they are about the real time that a test takes. Their limits are many times what
//! a busy machine needs, and a fraction of the virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectOptions, DatabaseConnection, DbBackend, Set, Statement, TransactionTrait};
use service_core::database::{Override, WorkItem, migrate, remove_override, set_override};
use service_core::prelude::*;
use service_core::testing::TestBed;
use tokio::time::Instant;

use crate::postgres::Postgres;

/// A bed with a database of one kind. The directory lives as long as the file.
pub(crate) struct Bed {
    pub(crate) bed: TestBed,
    pub(crate) db: DatabaseConnection,
    _dir: Option<tempfile::TempDir>,
}

impl Bed {
    pub(crate) async fn memory() -> Option<Self> {
        let bed = TestBed::new();
        let db = bed.sqlite().await;
        Some(Self { bed, db, _dir: None })
    }

    pub(crate) async fn file() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let bed = TestBed::new();
        let db = bed.database_url(format!("sqlite:{}", dir.path().join("test.db").display())).await;
        Some(Self { bed, db, _dir: Some(dir) })
    }

    pub(crate) async fn postgres() -> Option<Self> {
        Self::postgres_with("").await
    }

    /// With these parameters at the end of the URL, each after a `&`.
    pub(crate) async fn postgres_with(parameters: &str) -> Option<Self> {
        let server = tokio::task::spawn_blocking(Postgres::shared).await.unwrap()?;
        let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
        let bed = TestBed::new();
        let db = bed.database_url(url + parameters).await;
        Some(Self { bed, db, _dir: None })
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.db.execute_unprepared(sql).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let select = Statement::from_string(self.db.get_database_backend(), sql);
        self.db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    }
}

/// Each case is an `async fn(Bed)`. It becomes a test on each kind of database.
macro_rules! on_each {
    ($($case:ident),+ $(,)?) => {
        on_each!(memory: $($case),+);
        on_each!(file: $($case),+);
        on_each!(postgres: $($case),+);
    };
    ($kind:ident: $($case:ident),+) => {
        mod $kind { $(
            #[tokio::test(start_paused = true)]
            async fn $case() {
                if let Some(bed) = crate::bed::Bed::$kind().await {
                    super::$case(bed).await;
                }
            }
        )+ }
    };
}
pub(crate) use on_each;

on_each! {
    an_hour_of_sleeps_in_a_run_takes_moments,
    one_long_sleep_takes_moments,
    short_sleeps_take_exactly_their_time,
    an_hour_of_sleeps_in_a_transaction_takes_moments,
    an_hour_of_sleeps_in_claimed_items_takes_moments,
    a_value_stored_each_second_makes_exactly_one_run_a_second,
    statements_take_no_virtual_time,
    a_run_that_spawns_its_statements_takes_no_virtual_time,
    a_long_statement_moves_no_time,
    an_override_ends_at_its_moment,
    time_moves_while_an_override_expires_during_a_transaction,
    an_override_that_needs_a_restart_is_reported,
    a_run_changes_the_configuration_of_the_next,
    a_run_outside_a_loop_takes_exactly_its_time,
    two_calls_at_once_move_one_time,
    beds_that_are_no_replicas_share_the_clock,
    time_stands_still_between_the_calls,
    a_writer_waits_for_a_transaction_that_sleeps,
    a_timeout_ends_a_run_that_sleeps_in_a_transaction_at_its_moment,
    a_stop_waits_for_a_run_that_sleeps_in_a_transaction,
    a_pool_of_sleeping_transactions_is_waited_for,
    a_blocking_run_uses_the_database,
    a_hundred_services_store_at_once,
    a_service_that_never_ends_is_named,
    a_service_of_another_replica_that_never_ends_is_named,
    a_probe_is_checked_on_virtual_time,
    failed_rows_are_tried_again_on_virtual_time,
    single_runs_of_an_instance_know_the_rows_that_were_refused,
    single_runs_that_claim_each_know_the_rows_that_were_left_out,
    two_single_runs_at_the_same_time_take_different_rows,
    real_time_ends_no_claim,
}

/// The bed cannot tell a transaction of the pool's own from a slow statement, so it waits for seconds of real time
/// first.
#[tokio::test(start_paused = true)]
async fn a_transaction_of_the_pool_itself_may_sleep() {
    let bed = Bed::memory().await.unwrap();
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<OnThePool>().await;
    bed.bed.run_for(Duration::from_secs(5)).await;
    assert_eq!((service.health().runs, service.health().error_count), (1, 0));
    // On a busy machine, a slow statement is one more of these: a step of 250 ms.
    assert!((3_000..=4_500).contains(&service.health().total_processed), "{:?}", service.health());
}

#[derive(Default)]
struct OnThePool;

#[service(delay = 60, discover = false)]
impl OnThePool {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let tx = cx.db()?.begin().await?;
        tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
        cx.sleep(Duration::from_secs(3)).await;
        tx.execute_unprepared("INSERT INTO note VALUES (2)").await?;
        tx.commit().await?;
        Ok(Outcome::processed(began.elapsed().as_millis().try_into().unwrap()))
    }
}

/// A pool of one connection, which closes it if a statement is dropped before it is sent.
#[tokio::test(start_paused = true)]
async fn a_database_in_memory_outlives_its_connection() {
    let bed = TestBed::new();
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1);
    let db = bed.database_with(options).await;
    db.execute_unprepared("CREATE TABLE kept (id INTEGER PRIMARY KEY)").await.unwrap();
    let mut statement = Box::pin(db.execute_unprepared("INSERT INTO kept (id) VALUES (1)"));
    std::future::poll_fn(|task| {
        assert!(statement.as_mut().poll(task).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(statement);
    db.execute_unprepared("INSERT INTO kept (id) VALUES (2)").await.unwrap();
    bed.run_for(Duration::from_secs(100)).await;
    let ids = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, "SELECT id FROM kept")).await.unwrap();
    assert_eq!(ids.iter().map(|row| row.try_get_by_index::<i32>(0).unwrap()).collect::<Vec<_>>(), [2]);
}

/// A transaction that sleeps for 20 s has the only connection, and a start reads the configuration first.
#[tokio::test(start_paused = true)]
async fn a_start_lets_time_move_while_it_waits_for_a_connection() {
    let bed = TestBed::new();
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1);
    let db = bed.database_with(options).await;
    db.execute_unprepared("CREATE TABLE note (n INTEGER NOT NULL)").await.unwrap();
    let holder = bed.start_of::<Deaf>().await;
    bed.run_for(Duration::from_secs(1)).await;
    let (began, services) = (Instant::now(), bed.services().await);
    let one = bed.start_of::<Ticking>().await;
    assert_eq!(one.state(), ServiceState::Running);
    assert!(began.elapsed() <= Duration::from_secs(20), "{:?}", began.elapsed());
    one.stop().await.unwrap();
    holder.stop().await.unwrap();
    assert_eq!((holder.health().runs, holder.health().error_count), (1, 0), "{:?}", holder.health().last_error);
    // The same with all services.
    holder.start().await.unwrap();
    bed.run_for(Duration::from_secs(1)).await;
    let began = Instant::now();
    services.start().await.unwrap();
    assert_eq!(one.state(), ServiceState::Running);
    assert!(began.elapsed() <= Duration::from_secs(20), "{:?}", began.elapsed());
}

/// After an outage the pool's connections are opened again, and virtual time is as exact as before.
#[tokio::test(start_paused = true)]
async fn an_outage_on_virtual_time() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    let url = server.database();
    let bed = TestBed::new();
    bed.database_url(url).await;
    let service = bed.start_of::<Storing>().await;
    bed.run_for(Duration::from_secs(10)).await;
    assert_eq!(service.health().runs, 11);
    server.down();
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    server.up();
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(service.state(), ServiceState::Running);
    let runs = service.health().runs;
    bed.run_for(Duration::from_secs(100)).await;
    assert_eq!(service.health().runs, runs + 100);
}

const HOUR: Duration = Duration::from_secs(3600);
/// Real time that no hour of virtual time takes, even on a busy machine.
const MOMENTS: Duration = Duration::from_secs(900);

/// Asserts that the real time is a fraction of the virtual time.
async fn in_moments<T>(work: impl Future<Output = T>) -> T {
    let began = std::time::Instant::now();
    let done = work.await;
    assert!(began.elapsed() < MOMENTS, "it took {:?} of real time", began.elapsed());
    done
}

/// Sleeps in one run, in one of two ways, and says how long that took.
struct Sleeper {
    times: u32,
    each: Duration,
    by_tokio: bool,
}

impl Sleeper {
    async fn sleep(&self, cx: &Context) {
        for _ in 0..self.times {
            if self.by_tokio {
                tokio::time::sleep(self.each).await;
            } else {
                cx.sleep(self.each).await;
            }
        }
    }
}

#[service(delay = 1, discover = false)]
impl Sleeper {
    async fn update(&mut self, cx: &Context) -> Outcome {
        let began = Instant::now();
        self.sleep(cx).await;
        Outcome::processed(began.elapsed().as_millis().try_into().unwrap())
    }
}

async fn sleeps_for_exactly(bed: Bed, sleeper: Sleeper) {
    let expected = sleeper.each * sleeper.times;
    let service = bed.bed.start(sleeper).await;
    in_moments(bed.bed.run_for(expected)).await;
    assert_eq!(u128::from(service.health().total_processed), expected.as_millis());
    assert_eq!(service.health().runs, 1);
}

async fn an_hour_of_sleeps_in_a_run_takes_moments(bed: Bed) {
    sleeps_for_exactly(bed, Sleeper { times: 3600, each: Duration::from_secs(1), by_tokio: false }).await;
}

async fn one_long_sleep_takes_moments(bed: Bed) {
    sleeps_for_exactly(bed, Sleeper { times: 1, each: HOUR, by_tokio: true }).await;
}

async fn short_sleeps_take_exactly_their_time(bed: Bed) {
    sleeps_for_exactly(bed, Sleeper { times: 3000, each: Duration::from_millis(7), by_tokio: true }).await;
}

/// Sleeps while its transaction is open.
#[derive(Default)]
struct InTransaction;

#[service(delay = 1, discover = false)]
impl InTransaction {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let tx = cx.begin().await?;
        for n in 0..60 {
            tx.execute_unprepared(&format!("INSERT INTO note VALUES ({n})")).await?;
            for _ in 0..60 {
                cx.sleep(Duration::from_secs(1)).await;
            }
        }
        tx.commit().await?;
        Ok(Outcome::processed(began.elapsed().as_secs()))
    }
}

async fn an_hour_of_sleeps_in_a_transaction_takes_moments(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<InTransaction>().await;
    in_moments(bed.bed.run_for(HOUR)).await;
    assert_eq!((service.health().total_processed, service.health().error_count), (3600, 0));
    assert_eq!(bed.number("SELECT count(*) FROM note").await, 60);
}

mod job {
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "job")]
    #[work_item(status = "status", attempts = "attempts", max_attempts = 2)]
    pub(super) struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub status: String,
        pub attempts: i32,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Works on rows for a minute each: half of them in one transaction, the others one by one.
#[derive(Default)]
struct Worker;

#[service(delay = 1, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim::<job::Entity>(30).await?;
        while let Some(item) = batch.next().await? {
            let slept = cx.sleep(Duration::from_secs(60)).await;
            item.settle(Ok::<_, Error>(slept)).await?;
        }
        let _ = batch.commit().await?;
        let mut batch = cx.claim_each::<job::Entity>(30).await?;
        while let Some(item) = batch.next().await? {
            cx.sleep(Duration::from_secs(60)).await;
            item.settle(Ok::<_, Error>(())).await?;
        }
        batch.commit().await
    }
}

async fn an_hour_of_sleeps_in_claimed_items_takes_moments(bed: Bed) {
    bed.execute(
        "CREATE TABLE job (id BIGINT PRIMARY KEY, status VARCHAR(20) NOT NULL, attempts INTEGER NOT NULL DEFAULT 0)",
    )
    .await;
    for id in 0..60 {
        let job = job::ActiveModel { id: Set(id), status: Set("pending".to_owned()), attempts: Set(0) };
        job.insert(&bed.db).await.unwrap();
    }
    let service = bed.bed.start_of::<Worker>().await;
    in_moments(bed.bed.run_for(HOUR)).await;
    assert_eq!(service.health().error_count, 0, "{:?}", service.health().last_error);
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed' AND attempts = 1").await, 60);
    assert_eq!(service.health().last_run_duration_ms, Some(3_600_000));
}

/// Stores a value each second.
#[derive(Default)]
struct Storing;

#[service(interval = 1, discover = false)]
impl Storing {
    async fn update(&mut self, cx: &Context) -> Result {
        let n: u64 = cx.store().get("n").await?.unwrap_or_default();
        cx.store().set("n", &(n + 1)).await
    }
}

async fn a_value_stored_each_second_makes_exactly_one_run_a_second(bed: Bed) {
    let service = bed.bed.start_of::<Storing>().await;
    bed.bed.run_for(Duration::from_secs(100)).await;
    assert_eq!((service.health().runs, service.health().error_count), (101, 0));
    assert_eq!(bed.number("SELECT CAST(value AS BIGINT) FROM service_store").await, 101);
    // Time stands still: nothing is due before the next call.
    assert_eq!(bed.number("SELECT CAST(value AS BIGINT) FROM service_store").await, 101);
}

/// Many statements in one run, of all kinds.
#[derive(Default)]
struct Busy;

#[service(interval = 1, discover = false)]
impl Busy {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        for n in 0..10 {
            cx.db()?.execute_unprepared(&format!("INSERT INTO note VALUES ({n})")).await?;
            let tx = cx.begin().await?;
            tx.execute_unprepared("UPDATE note SET n = n + 1").await?;
            let savepoint = tx.begin().await?;
            savepoint.execute_unprepared("DELETE FROM note WHERE n > 100").await?;
            savepoint.commit().await?;
            tx.commit().await?;
            let raw = cx.db()?.begin().await?;
            raw.execute_unprepared("UPDATE note SET n = n - 1").await?;
            drop(raw);
            drop(cx.begin().await?);
        }
        Ok(Outcome::processed(began.elapsed().as_nanos().try_into().unwrap()))
    }
}

async fn statements_take_no_virtual_time(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<Busy>().await;
    bed.bed.run_for(Duration::from_secs(10)).await;
    let health = service.health();
    assert_eq!((health.runs, health.error_count, health.total_processed), (11, 0, 0), "{:?}", health.last_error);
}

/// Uses the pool in a task of its own.
#[derive(Default)]
struct Spawning;

#[service(interval = 1, discover = false)]
impl Spawning {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let db = cx.db().unwrap().clone();
                tokio::spawn(async move { db.execute_unprepared(&format!("INSERT INTO note VALUES ({n})")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap()?;
        }
        Ok(Outcome::processed(began.elapsed().as_nanos().try_into().unwrap()))
    }
}

async fn a_run_that_spawns_its_statements_takes_no_virtual_time(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<Spawning>().await;
    bed.bed.run_for(Duration::from_secs(10)).await;
    let health = service.health();
    assert_eq!((health.runs, health.error_count, health.total_processed), (11, 0, 0), "{:?}", health.last_error);
}

/// One statement that takes real time.
#[derive(Default)]
struct Slow;

#[service(delay = 1, discover = false)]
impl Slow {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let counting =
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 700000) SELECT count(*) FROM c";
        cx.db()?.execute_unprepared(counting).await?;
        Ok(Outcome::processed(began.elapsed().as_nanos().try_into().unwrap()))
    }
}

async fn a_long_statement_moves_no_time(bed: Bed) {
    let service = bed.bed.start_of::<Slow>().await;
    bed.bed.run_for(Duration::from_secs(2)).await;
    assert_eq!((service.health().runs, service.health().total_processed), (3, 0));
}

#[derive(Default)]
struct Ticking;

#[service(interval = 10, discover = false)]
impl Ticking {
    async fn update(&mut self) {}
}

async fn an_override_ends_at_its_moment(bed: Bed) {
    let service = bed.bed.start_of::<Ticking>().await;
    bed.bed.run_for(Duration::from_secs(20)).await;
    assert_eq!(service.health().runs, 3);
    // The bed's wall clock begins with 2026, and 20 s have passed.
    let until = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:20Z").unwrap().to_utc() + TimeDelta::seconds(55);
    set_override(&bed.db, &Override::new("ticking", "paused", true).until(until)).await.unwrap();
    bed.bed.run_for(Duration::from_secs(54)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    assert_eq!(service.health().runs, 3);
    bed.bed.run_for(Duration::from_secs(1)).await;
    assert_eq!(service.state(), ServiceState::Running);
    bed.bed.run_for(Duration::from_secs(20)).await;
    assert_eq!(service.health().runs, 6, "one that is overdue, and at 80 s and 90 s");
}

async fn time_moves_while_an_override_expires_during_a_transaction(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let ticking = bed.bed.start_of::<Ticking>().await;
    // The bed's wall clock begins with 2026.
    let until = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:05Z").unwrap().to_utc();
    set_override(&bed.db, &Override::new("ticking", "paused", true).until(until)).await.unwrap();
    bed.bed.run_for(Duration::from_secs(1)).await;
    assert_eq!(ticking.state(), ServiceState::Paused);
    // Its transaction is open from now on, for 20 s.
    let deaf = bed.bed.start_of::<Deaf>().await;
    bed.bed.run_for(Duration::from_secs(25)).await;
    assert_eq!((ticking.state(), deaf.health().error_count), (ServiceState::Running, 0));
}

async fn an_override_that_needs_a_restart_is_reported(bed: Bed) {
    let (log, _listening) = crate::log::Log::listen();
    let warnings = || log.warnings().into_iter().filter(|line| line.contains("restart")).collect::<Vec<_>>();
    migrate(&bed.db).await.unwrap();
    set_override(&bed.db, &Override::new("ticking", "enabled", false).by("bob")).await.unwrap();
    let service = bed.bed.start_of::<Ticking>().await;
    assert_eq!(warnings(), [""; 0], "it was read before the start");
    set_override(&bed.db, &Override::new("ticking", "enabled", true).by("ann")).await.unwrap();
    bed.bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(service.state(), ServiceState::Running);
    let found = warnings();
    assert!(found.len() == 1 && found[0].contains("`enabled` of service `ticking` (override by ann"), "{found:?}");
    assert!(found[0].contains("need a restart of the program"), "{found:?}");
}

/// Makes another service faster, and slower again.
#[derive(Default)]
struct Operator {
    is_fast: bool,
}

#[service(interval = 60, initial_delay = 30, discover = false)]
impl Operator {
    async fn update(&mut self, cx: &Context) -> Result {
        self.is_fast = !self.is_fast;
        match self.is_fast {
            true => set_override(cx.db()?, &Override::new("ticking", "interval", 1)).await,
            false => remove_override(cx.db()?, "ticking", "interval").await.map(drop),
        }
    }
}

async fn a_run_changes_the_configuration_of_the_next(bed: Bed) {
    let ticking = bed.bed.start_of::<Ticking>().await;
    let operator = bed.bed.start_of::<Operator>().await;
    // From second 30 to 90 it runs each second.
    bed.bed.run_for(Duration::from_secs(100)).await;
    assert_eq!((operator.health().runs, operator.health().error_count), (2, 0));
    assert_eq!(ticking.health().runs, 4 + 60 + 1);
}

async fn a_run_outside_a_loop_takes_exactly_its_time(bed: Bed) {
    let mut sleeper = Sleeper { times: 3000, each: Duration::from_millis(7), by_tokio: true };
    let report = in_moments(bed.bed.update(&mut sleeper)).await;
    assert_eq!(report.duration(), Duration::from_millis(21_000));
    let report = in_moments(bed.bed.update(&mut Storing)).await;
    assert!(report.error().is_none());
    assert_eq!(report.duration(), Duration::ZERO);
}

async fn two_calls_at_once_move_one_time(bed: Bed) {
    let sleeper = bed.bed.start(Sleeper { times: 10, each: Duration::from_secs(1), by_tokio: false }).await;
    let storing = bed.bed.start_of::<Storing>().await;
    let began = Instant::now();
    // Both wait for the end of a run.
    let (slept, stored) = tokio::join!(sleeper.run_now(), storing.run_now());
    assert_eq!((slept.unwrap().processed(), stored.is_ok()), (10_000, true));
    assert!(began.elapsed() <= Duration::from_secs(20), "{:?}", began.elapsed());
    let (stopped, ()) = tokio::join!(sleeper.stop(), bed.bed.run_for(Duration::from_secs(10)));
    stopped.unwrap();
    assert_eq!(sleeper.state(), ServiceState::Stopped);
}

/// A second bed with a database of its own, and one without: each of them lets time move for all.
async fn beds_that_are_no_replicas_share_the_clock(bed: Bed) {
    let sleeper = || Sleeper { times: 10, each: Duration::from_secs(1), by_tokio: false };
    let (other, without) = (TestBed::new(), TestBed::new());
    let _db = other.sqlite().await;
    let (storing, stored) = (bed.bed.start_of::<Storing>().await, other.start_of::<Storing>().await);
    let sleeping = without.start(sleeper()).await;
    let began = Instant::now();
    for bed in [&bed.bed, &other, &without] {
        bed.run_for(Duration::from_secs(100)).await;
    }
    assert_eq!(began.elapsed(), Duration::from_secs(300));
    for service in [&storing, &stored, &sleeping] {
        let health = service.health();
        assert!(health.runs > 25 && health.error_count == 0, "{health:?}");
    }
    assert_eq!(without.update(&mut sleeper()).await.duration(), Duration::from_secs(10));
    let (ran, began) = (sleeping.run_now().await.unwrap(), Instant::now());
    assert_eq!(ran.processed(), 10_000);
    sleeping.stop().await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    drop(other);
    storing.run_now().await.unwrap();
    storing.stop().await.unwrap();
}

async fn time_stands_still_between_the_calls(bed: Bed) {
    let storing = bed.bed.start_of::<Storing>().await;
    bed.bed.run_for(Duration::from_secs(1)).await;
    let began = Instant::now();
    for _ in 0..100 {
        bed.number("SELECT count(*) FROM service_store").await;
    }
    assert_eq!((began.elapsed(), storing.health().runs), (Duration::ZERO, 2));
}

/// Holds a lock for three seconds of virtual time, in two runs.
#[derive(Default)]
struct Holder;

#[service(delay = 60, discover = false)]
impl Holder {
    async fn update(&mut self, cx: &Context) -> Result {
        let tx = cx.begin().await?;
        tx.execute_unprepared("UPDATE note SET n = n + 1").await?;
        cx.sleep(Duration::from_secs(3)).await;
        tx.commit().await
    }
}

/// Needs the same lock a second later.
#[derive(Default)]
struct Waiter;

#[service(delay = 60, initial_delay = 1, discover = false)]
impl Waiter {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let (db, update) = (cx.db()?, "UPDATE note SET n = n + 1");
        let sql = match db.get_database_backend() {
            // Above this level, which may be the server's default, the update fails instead of waiting.
            DbBackend::Postgres => format!("BEGIN ISOLATION LEVEL READ COMMITTED; {update}; COMMIT"),
            _ => update.to_owned(),
        };
        db.execute_unprepared(&sql).await?;
        Ok(Outcome::processed(began.elapsed().as_millis().try_into().unwrap()))
    }
}

async fn a_writer_waits_for_a_transaction_that_sleeps(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    bed.execute("INSERT INTO note VALUES (0)").await;
    let holder = bed.bed.start_of::<Holder>().await;
    let waiter = bed.bed.start_of::<Waiter>().await;
    bed.bed.run_for(Duration::from_secs(5)).await;
    assert_eq!((holder.health().error_count, waiter.health().error_count), (0, 0), "{:?}", waiter.health().last_error);
    assert_eq!(bed.number("SELECT CAST(n AS BIGINT) FROM note").await, 2);
    assert!((2_000..=2_500).contains(&waiter.health().total_processed), "{:?}", waiter.health());
}

/// Sleeps in a transaction for longer than it may.
#[derive(Default)]
struct Late;

#[service(interval = 100, timeout = "7s", max_failures = 5, discover = false)]
impl Late {
    async fn update(&mut self, cx: &Context) -> Result {
        let tx = cx.begin().await?;
        tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
        tokio::time::sleep(Duration::from_secs(50)).await;
        tx.commit().await
    }
}

async fn a_timeout_ends_a_run_that_sleeps_in_a_transaction_at_its_moment(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<Late>().await;
    bed.bed.run_for(Duration::from_millis(6_990)).await;
    assert_eq!(service.health().error_count, 0);
    bed.bed.run_for(Duration::from_millis(10)).await;
    assert_eq!((service.health().error_count, service.health().last_run_duration_ms), (1, Some(7_000)));
    assert_eq!(bed.number("SELECT count(*) FROM note").await, 0);
}

async fn a_stop_waits_for_a_run_that_sleeps_in_a_transaction(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let began = Instant::now();
    let service = bed.bed.start_of::<Deaf>().await;
    bed.bed.run_for(Duration::from_secs(1)).await;
    service.stop().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 20);
    assert_eq!(bed.number("SELECT count(*) FROM note").await, 1);
}

/// Does not notice a stop while it sleeps.
#[derive(Default)]
struct Deaf;

#[service(delay = 60, drain_timeout = "1m", discover = false)]
impl Deaf {
    async fn update(&mut self, cx: &Context) -> Result {
        let tx = cx.begin().await?;
        tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        tx.commit().await
    }
}

/// Reads in more transactions at once than the pool has connections.
#[derive(Default)]
struct Many;

#[service(delay = 60, discover = false)]
impl Many {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let began = Instant::now();
        let tasks: Vec<_> = (0..15)
            .map(|_| {
                let db = cx.clone();
                tokio::spawn(async move {
                    let tx = db.begin().await?;
                    db.sleep(Duration::from_secs(1)).await;
                    tx.commit().await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap()?;
        }
        Ok(Outcome::processed(began.elapsed().as_millis().try_into().unwrap()))
    }
}

async fn a_pool_of_sleeping_transactions_is_waited_for(bed: Bed) {
    let is_postgres = bed.db.get_database_backend() == sea_orm::DbBackend::Postgres;
    let service = bed.bed.start_of::<Many>().await;
    in_moments(bed.bed.run_for(Duration::from_secs(40))).await;
    let health = service.health();
    assert_eq!((health.runs, health.error_count), (1, 0), "{:?}", health.last_error);
    // Ten connections on PostgreSQL; SQLite has one writer at a time.
    let expected = if is_postgres { 2_000 } else { 15_000 };
    assert_eq!(health.total_processed, expected);
}

/// Blocks a thread on the database.
#[derive(Default)]
struct Blocking;

#[service(interval = 1, discover = false)]
impl Blocking {
    fn update(&mut self, cx: &Context) -> Result {
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(async {
            let tx = cx.begin().await?;
            tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
            tx.commit().await
        })
    }
}

async fn a_blocking_run_uses_the_database(bed: Bed) {
    bed.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = bed.bed.start_of::<Blocking>().await;
    bed.bed.run_for(Duration::from_secs(100)).await;
    assert_eq!((service.health().runs, service.health().error_count), (101, 0));
    assert_eq!(bed.number("SELECT count(*) FROM note").await, 101);
}

async fn a_hundred_services_store_at_once(bed: Bed) {
    let mut services = Vec::new();
    for _ in 0..100 {
        services.push(bed.bed.start_of::<Storing>().await);
    }
    bed.bed.run_for(Duration::from_secs(5)).await;
    let runs: Vec<_> = services.iter().map(|service| (service.health().runs, service.health().error_count)).collect();
    assert_eq!(runs, [(6, 0); 100]);
}

/// Asks for another run, always.
#[derive(Default)]
struct Endless;

#[service(interval = 1, discover = false)]
impl Endless {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.db()?;
        Ok(Outcome::idle().again())
    }
}

async fn a_service_that_never_ends_is_named(bed: Bed) {
    let service = bed.bed.start_of::<Endless>().await;
    let running = tokio::spawn(async move { bed.bed.run_for(Duration::from_secs(3)).await });
    let message = running.await.unwrap_err().into_panic().downcast::<String>().unwrap();
    assert!(message.contains("`endless` keeps virtual time from moving"), "{message}");
    drop(service);
}

async fn a_service_of_another_replica_that_never_ends_is_named(bed: Bed) {
    let other = bed.bed.replica().await;
    let service = other.start_of::<Endless>().await;
    let running = tokio::spawn(async move { bed.bed.run_for(Duration::from_secs(3)).await });
    let message = running.await.unwrap_err().into_panic().downcast::<String>().unwrap();
    assert!(message.contains("`endless` keeps virtual time from moving"), "{message}");
    drop((service, other));
}

/// Needs an API that is away in the middle of the test.
struct Client(Arc<AtomicBool>);

#[service(interval = 60, max_failures = 1, retry_delay = 20, needs = ["api"], discover = false)]
impl Client {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.db()?;
        if self.0.load(Ordering::SeqCst) { Err(Error::msg("the call failed")) } else { Ok(()) }
    }
}

async fn a_probe_is_checked_on_virtual_time(bed: Bed) {
    let away = Arc::new(AtomicBool::new(false));
    let probed = away.clone();
    let bed = bed.bed.with(move |builder| {
        builder.probe("api", Duration::from_secs(10), async move || match probed.load(Ordering::SeqCst) {
            true => Err("connection refused"),
            false => Ok(()),
        })
    });
    let service = bed.start(Client(away.clone())).await;
    away.store(true, Ordering::SeqCst);
    bed.run_for(Duration::from_secs(600)).await;
    let health = service.health();
    assert_eq!(health.state, ServiceState::BackingOff, "{health:?}");
    assert!(health.reason.unwrap().contains("the probe `api` has failed for "));
    away.store(false, Ordering::SeqCst);
    bed.run_for(Duration::from_secs(11)).await;
    let health = service.health();
    assert_eq!((health.state, health.failures), (ServiceState::Running, 0), "{health:?}");
}

/// A time that is never NULL.
mod visit {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "visit")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) due: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[derive(Default)]
struct Visitor;

#[service(interval = 1, discover = false)]
impl Visitor {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim::<visit::Entity>(10).for_each(async |_| ()).await
    }
}

/// The time of the bed is long before that of the machine.
async fn failed_rows_are_tried_again_on_virtual_time(bed: Bed) {
    crate::tables::create(&bed.db, visit::Entity).await;
    bed.execute("INSERT INTO visit VALUES (1, 'failed', '2025-12-01T12:00:00+00:00')").await;
    bed.bed.start_of::<Visitor>().await;
    bed.bed.run_for(Duration::from_secs(5)).await;
    let retried = service_core::database::retry_failed::<visit::Entity>(&bed.db, visit::Column::Id.eq(1)).await;
    assert_eq!(retried.unwrap(), 1);
    bed.bed.run_for(Duration::from_secs(5)).await;
    assert_eq!(bed.number("SELECT count(*) FROM visit WHERE status = 'completed'").await, 1);
}

/// Commits all of its rows together.
#[derive(Default)]
struct Together;

#[service(discover = false)]
impl Together {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim::<crate::tables::job::Entity>(10).for_each(async |_| ()).await
    }
}

/// The table refuses to complete one row. The batch fails, and then its rows are claimed one by one.
async fn single_runs_of_an_instance_know_the_rows_that_were_refused(bed: Bed) {
    crate::tables::jobs(&bed.db, 5).await;
    match bed.db.get_database_backend() {
        DbBackend::Postgres => {
            bed.execute("ALTER TABLE job ADD CHECK (id <> 3 OR status <> 'completed')").await;
        }
        _ => {
            bed.execute(
                "CREATE TRIGGER refused BEFORE UPDATE ON job WHEN NEW.id = 3 AND NEW.status = 'completed' \
                 BEGIN SELECT RAISE(ABORT, 'not this one'); END",
            )
            .await;
        }
    }
    let mut service = Together;
    for _ in 0..8 {
        bed.bed.update(&mut service).await;
    }
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed'").await, 4);
}

/// Claims one row in each run, and commits it by itself.
#[derive(Default)]
struct OneEach;

#[service(discover = false)]
impl OneEach {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim_each::<crate::tables::job::Entity>(1).for_each(async |_| ()).await
    }
}

/// A trigger undoes the update of the first row, so it is left out. Each run knows that.
async fn single_runs_that_claim_each_know_the_rows_that_were_left_out(bed: Bed) {
    crate::tables::jobs(&bed.db, 4).await;
    match bed.db.get_database_backend() {
        DbBackend::Postgres => {
            let function = "CREATE FUNCTION keep() RETURNS trigger AS $$ BEGIN RETURN NULL; END $$ LANGUAGE plpgsql";
            bed.execute(function).await;
            bed.execute(
                "CREATE TRIGGER keep BEFORE UPDATE ON job FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION keep()",
            )
            .await;
        }
        _ => {
            bed.execute(
                "CREATE TRIGGER keep AFTER UPDATE OF status ON job WHEN NEW.id = 1 AND NEW.status <> 'pending' \
                 BEGIN UPDATE job SET status = 'pending' WHERE id = 1; END",
            )
            .await;
        }
    }
    for _ in 0..8 {
        bed.bed.update(&mut OneEach).await;
    }
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed'").await, 3);
}

/// Claims its rows while another run of the same type does.
async fn two_single_runs_at_the_same_time_take_different_rows(bed: Bed) {
    crate::tables::jobs(&bed.db, 5).await;
    let (mut one, mut other) = (Unhurried, Unhurried);
    let (one, other) = tokio::join!(bed.bed.update(&mut one), bed.bed.update(&mut other));
    assert_eq!((one.processed() + other.processed(), one.error().is_none(), other.error().is_none()), (5, true, true));
}

/// Takes more real time than a claim lasts, and no virtual time.
#[derive(Default)]
struct Unhurried;

#[service(discover = false)]
impl Unhurried {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let claim = cx.claim_each::<crate::tables::job::Entity>(5).lease(Duration::from_millis(300));
        claim.for_each(async |_| std::thread::sleep(Duration::from_millis(150))).await
    }
}

async fn real_time_ends_no_claim(bed: Bed) {
    crate::tables::jobs(&bed.db, 5).await;
    assert_eq!(bed.bed.update(&mut Unhurried).await.processed(), 5);
}
