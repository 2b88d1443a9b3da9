//! Changes on a PostgreSQL server while workers run: changed tables, connections that the server ends, raised isolation
//! levels.

use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, EntityTrait, Statement, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, Override, Transaction};
use service_core::prelude::*;

use crate::Bench;
use crate::away::{health, until};
use crate::tables::{effect, effects, job, jobs, statuses};

/// A key that is a text.
mod coded {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "coded")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) code: String,
        pub(crate) status: String,
        pub(crate) due: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn work(
    service_db: &ServiceDb,
    each: bool,
    process: impl AsyncFn(&job::Model, &Transaction) -> Result<()>,
) -> Result<Outcome> {
    let run = async {
        let mut batch = match each {
            true => service_db.claim_each::<job::Entity>(10).await?,
            false => service_db.claim::<job::Entity>(10).await?,
        };
        while let Some(item) = batch.next().await? {
            let done = process(item.model(), item.tx()).await;
            item.settle(done).await?;
        }
        batch.commit().await
    };
    let run = run.await;
    service_db.settle(run.as_ref().err().map(|error| format!("{error:#}")).as_deref()).await?;
    run
}

async fn well(job: &job::Model, tx: &Transaction) -> Result<()> {
    Ok(effect(tx, job.id).await?)
}

/// A migration beside a worker: the prepared statements of its connections no longer fit.
#[tokio::test]
async fn a_table_that_is_changed_beside_a_worker_fails_no_run() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 60).await;
        let mut options = ConnectOptions::new(bench.url.clone());
        options.max_connections(3);
        let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "worker");
        for sql in
            ["ALTER TABLE job ALTER COLUMN payload TYPE text", "ALTER TABLE job ALTER COLUMN payload TYPE varchar(99)"]
        {
            for _ in 0..2 {
                assert_eq!(work(&service_db, each, well).await.unwrap(), Outcome::processed(10).again(), "{each}");
            }
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        assert_eq!(work(&service_db, each, well).await.unwrap(), Outcome::processed(10).again(), "{each}");
        let key_type = |to: &str| format!("ALTER TABLE coded ALTER COLUMN code TYPE {to}");
        for sql in [
            "DROP TABLE IF EXISTS coded",
            "CREATE TABLE coded (code varchar(50) PRIMARY KEY, status text NOT NULL, due timestamptz)",
            "INSERT INTO coded SELECT 'code ' || n, 'pending' FROM generate_series(1, 50) AS n",
        ] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        let take_ten = async || match each {
            true => service_db.claim_each::<coded::Entity>(10).for_each(async |_| ()).await,
            false => service_db.claim::<coded::Entity>(10).for_each(async |_| ()).await,
        };
        for to in ["text", "varchar(99)"] {
            for _ in 0..2 {
                assert_eq!(take_ten().await.unwrap(), Outcome::processed(10).again(), "{each}");
            }
            bench.db.execute_unprepared(&key_type(to)).await.unwrap();
        }
        assert_eq!(take_ten().await.unwrap(), Outcome::processed(10), "{each}");
    }
}

/// The same for a statement of the item's own, which the framework cannot prepare anew: no row is charged, and the
/// connection is not used again.
#[tokio::test]
async fn a_stale_statement_of_an_item_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DROP TABLE IF EXISTS plan"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 30).await;
        for sql in ["CREATE TABLE plan (name varchar(10))", "INSERT INTO plan VALUES ('a')"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        let mut options = ConnectOptions::new(bench.url.clone());
        options.max_connections(2);
        let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            // Prepared, as it has a parameter.
            let select = Statement::from_sql_and_values(
                tx.get_database_backend(),
                "SELECT * FROM plan WHERE name = $1",
                ["a".into()],
            );
            tx.query_one_raw(select).await?;
            Ok(effect(tx, job.id).await?)
        };
        assert_eq!(work(&service_db, each, process).await.unwrap(), Outcome::processed(10).again());
        bench.db.execute_unprepared("ALTER TABLE plan ALTER COLUMN name TYPE text").await.unwrap();
        let begun = Instant::now();
        while statuses(&bench.db).await.iter().any(|status| status != "completed") {
            let _ = work(&service_db, each, process).await;
            assert!(begun.elapsed() < Duration::from_secs(20), "{each}: {:?}", statuses(&bench.db).await);
        }
        assert_eq!(effects(&bench.db).await, (1..=30).collect::<Vec<_>>());
        for row in job::Entity::find().all(&bench.db).await.unwrap() {
            assert_eq!(row.attempts, 1, "{each} {row:?}");
        }
    }
}

/// The same if each claim has one row, which must not be taken for the cause.
#[tokio::test]
async fn a_stale_statement_of_the_only_item_of_a_claim_costs_no_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DROP TABLE IF EXISTS plan"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 4).await;
        for sql in ["CREATE TABLE plan (name varchar(10))", "INSERT INTO plan VALUES ('a')"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        let mut options = ConnectOptions::new(bench.url.clone());
        options.max_connections(1);
        let service_db = ServiceDb::new(Database::connect(options).await.unwrap(), "worker");
        let begun = Instant::now();
        for kind in ["text", "varchar(20)", "text"] {
            let claimed = async {
                let mut batch = match each {
                    true => service_db.claim_each::<job::Entity>(1).await?,
                    false => service_db.claim::<job::Entity>(1).await?,
                };
                while let Some(item) = batch.next().await? {
                    let read = read_plan(item.tx()).await;
                    item.settle(read).await?;
                }
                batch.commit().await
            };
            let ended = claimed.await;
            service_db.settle(ended.err().map(|error| format!("{error:#}")).as_deref()).await.unwrap();
            let sql = format!("ALTER TABLE plan ALTER COLUMN name TYPE {kind}");
            bench.db.execute_unprepared(&sql).await.unwrap();
        }
        while statuses(&bench.db).await.iter().any(|status| status != "completed") {
            let _ = work(&service_db, each, well).await;
            assert!(begun.elapsed() < Duration::from_secs(20), "{each}: {:?}", statuses(&bench.db).await);
        }
        for row in job::Entity::find().all(&bench.db).await.unwrap() {
            assert_eq!(row.attempts, 1, "{each} {row:?}");
        }
    }
}

/// Reads a table with a prepared statement, in one of three ways.
struct Reading {
    how: &'static str,
}

#[service(interval = "20ms", retry_delay = "20ms", max_failures = 1, discover = false)]
impl Reading {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        match self.how {
            "pool" => read_plan(cx.db()?).await?,
            "transaction" => {
                let tx = cx.begin().await?;
                read_plan(&tx).await?;
                tx.commit().await?;
            }
            _ => {
                cx.store().get::<u32>("seen").await?;
                cx.store().set("seen", &1).await?;
            }
        }
        Ok(Outcome::processed(1))
    }
}

async fn read_plan(db: &impl ConnectionTrait) -> Result<()> {
    let select = "SELECT * FROM plan WHERE name = $1";
    db.query_one_raw(Statement::from_sql_and_values(sea_orm::DbBackend::Postgres, select, ["a".into()])).await?;
    Ok(())
}

/// The same for statements of a run outside of items: it may fail, and then the statements are prepared again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_statement_of_a_run_is_prepared_again() {
    let Some(bench) = Bench::postgres().await else { return };
    for sql in ["CREATE TABLE plan (name varchar(10))", "INSERT INTO plan VALUES ('a')"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    const WAYS: [&str; 3] = ["pool", "transaction", "store"];
    let mut builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
    for how in WAYS {
        for n in 0..2 {
            builder = builder.service_fn(format!("{how}_{n}"), move || Reading { how });
        }
    }
    let services = builder.start_all().await.unwrap();
    for kind in ["text", "varchar(20)"] {
        for sql in [
            format!("ALTER TABLE plan ALTER COLUMN name TYPE {kind}"),
            format!("ALTER TABLE service_store ALTER COLUMN value TYPE {kind}"),
        ] {
            bench.db.execute_unprepared(&sql).await.unwrap();
        }
        for id in services.list() {
            let before = health(&services, &id).total_processed;
            until("it runs on", || {
                let found = health(&services, &id);
                assert_ne!(found.state, ServiceState::Failed, "{found:?}");
                found.total_processed > before + 20 && found.failures == 0
            })
            .await;
        }
    }
    services.shutdown().await.unwrap();
}

#[derive(Default)]
struct Single;

#[service(interval = "100ms", scope = "cluster", discover = false)]
impl Single {
    async fn update(&mut self) {}
}

/// The same for the registry's own statements: it reads overrides and leases all the time.
#[tokio::test]
async fn the_framework_s_tables_may_be_changed_beside_the_program() {
    let Some(bench) = Bench::postgres().await else { return };
    let (log, _listening) = crate::log::Log::listen();
    let replica = async || {
        let builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
        builder.service_of::<Single>("single").start_all().await.unwrap()
    };
    let (first, second) = (replica().await, replica().await);
    until("it stands by", || health(&second, "single").state == ServiceState::Standby).await;
    // Each connection has prepared what the registries read each second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for column in
        ["service_override ALTER COLUMN why", "service_config ALTER COLUMN key", "service_lease ALTER COLUMN label"]
    {
        bench.db.execute_unprepared(&format!("ALTER TABLE {column} TYPE varchar(500)")).await.unwrap();
    }
    database::set_override(&bench.db, &Override::new("single", "interval", "70ms").by("ann")).await.unwrap();
    for services in [&first, &second] {
        until("the override applies", || {
            let options = services.get("single").unwrap().explain().options;
            options.iter().any(|option| option.key == "interval" && option.value == "70ms")
        })
        .await;
    }
    first.shutdown().await.unwrap();
    until("the other one takes over", || health(&second, "single").runs > 0).await;
    second.shutdown().await.unwrap();
    let failures: Vec<String> = log.lines().into_iter().filter(|line| line.contains("cached plan")).collect();
    assert_eq!(failures, [""; 0]);
}

/// Sends a statement that PostgreSQL does not support. Its error has the code of a stale statement.
struct Unsupported;

impl Unsupported {
    async fn send(cx: &Context) -> Result<()> {
        let select = "SELECT DISTINCT name FROM plan WHERE name = $1 FOR UPDATE";
        let select = Statement::from_sql_and_values(sea_orm::DbBackend::Postgres, select, ["a".into()]);
        cx.db()?.query_all_raw(select).await?;
        Ok(())
    }
}

#[service(interval = "20ms", retry_delay = "20ms", max_failures = 1, discover = false)]
impl Unsupported {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        Self::send(cx).await
    }
}

struct NeverReady;

#[service(interval = "20ms", retry_delay = "20ms", max_failures = 1, discover = false)]
impl NeverReady {
    async fn configure(cx: &Context) -> Result<Self> {
        Unsupported::send(cx).await?;
        Ok(Self)
    }

    async fn update(&mut self) {}
}

/// It is a mistake of the service: it counts, and a strict start reports it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_the_server_does_not_support_is_the_service_s_own_error() {
    let Some(bench) = Bench::postgres().await else { return };
    bench.db.execute_unprepared("CREATE TABLE plan (name varchar(10))").await.unwrap();
    let builder = || ServiceRegistry::builder().without_discovered().database_url(&bench.url);
    let services = builder().service("unsupported", Unsupported).start_all().await.unwrap();
    until("it has failed", || health(&services, "unsupported").state == ServiceState::Failed).await;
    let found = health(&services, "unsupported");
    assert_eq!(found.error_count, 2, "{found:?}");
    // Its error names the failed service.
    let _ = services.shutdown().await;
    let error = builder().strict().service_of::<NeverReady>("never_ready").start_all().await.unwrap_err();
    assert!(format!("{error:#}").contains("never_ready"), "{error:#}");
}

/// In an item, it is an error of the row.
#[tokio::test]
async fn a_statement_of_an_item_that_the_server_does_not_support_costs_an_attempt() {
    let Some(bench) = Bench::postgres().await else { return };
    bench.db.execute_unprepared("CREATE TABLE plan (name varchar(10))").await.unwrap();
    for each in [false, true] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 3).await;
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            if job.id == 2 {
                tx.execute_unprepared("SELECT DISTINCT name FROM plan FOR UPDATE").await?;
            }
            Ok(effect(tx, job.id).await?)
        };
        assert_eq!(work(&service_db, each, process).await.unwrap(), Outcome::processed(2).failed(1), "{each}");
        let row = crate::tables::job(&bench.db, 2).await;
        assert_eq!((row.status.as_str(), row.attempts), ("pending", 1), "{each}: {row:?}");
        assert_eq!(effects(&bench.db).await, [1, 3], "{each}");
    }
}

/// A row that takes longer than the server allows a transaction to be idle: its batch cannot commit. It is found and
/// loses an attempt, and the others complete.
#[tokio::test]
async fn a_row_whose_connection_ends_at_the_commit_is_found_and_charged() {
    for each in [false, true] {
        let Some(bench) = Bench::postgres().await else { return };
        jobs(&bench.db, 5).await;
        bench.set("idle_in_transaction_session_timeout", "1s").await;
        // New connections have the limit.
        let service_db = ServiceDb::new(service_core::database::connect(&bench.url).await.unwrap(), "worker");
        let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            effect(tx, job.id).await?;
            if job.id == 2 {
                // Other rows stay below the limit on a busy machine, too.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(())
        };
        let mut failures_in_a_row = 0;
        let begun = Instant::now();
        loop {
            match work(&service_db, each, process).await {
                Ok(_) => failures_in_a_row = 0,
                Err(_) => failures_in_a_row += 1,
            }
            assert!(failures_in_a_row <= 3, "{each}: a service would be failed");
            if crate::tables::job(&bench.db, 2).await.attempts > 0 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{each}");
        }
        for _ in 0..6 {
            let _ = work(&service_db, each, process).await.unwrap();
        }
        let row = crate::tables::job(&bench.db, 2).await;
        assert_eq!((row.status.as_str(), row.attempts), ("pending", 1), "{each}: {row:?}");
        assert_eq!(effects(&bench.db).await, [1, 3, 4, 5], "{each}");
        for id in [1, 3, 4, 5] {
            assert_eq!(crate::tables::job(&bench.db, id).await.attempts, 1, "{each}");
        }
    }
}

#[derive(Default)]
struct Together;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Together {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim::<job::Entity>(7).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        cx.store().set("last", &1).await?;
        batch.commit().await
    }
}

#[derive(Default)]
struct Each;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Each {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim_each::<job::Entity>(7).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        cx.store().set("last", &1).await?;
        batch.commit().await
    }
}

/// A server that raises the default isolation level: the framework's transactions still run at READ COMMITTED.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_isolation_level_fails_no_service() {
    let Some(bench) = Bench::postgres().await else { return };
    for level in ["serializable", "repeatable read"] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 400).await;
        bench.set("default_transaction_isolation", level).await;
        let mut builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
        for n in 0..3 {
            builder = builder.service_of::<Together>(format!("together_{n}")).service_of::<Each>(format!("each_{n}"));
        }
        let services = builder.start_all().await.unwrap();
        let begun = Instant::now();
        while statuses(&bench.db).await.iter().any(|status| status != "completed") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(begun.elapsed() < Duration::from_secs(60), "{level}");
        }
        for id in services.list() {
            let health = services.get(&id).unwrap().health();
            assert_eq!((health.error_count, health.running), (0, true), "{level}: {health:?}");
        }
        services.shutdown().await.unwrap();
        assert_eq!(effects(&bench.db).await, (1..=400).collect::<Vec<_>>());
        for row in job::Entity::find().all(&bench.db).await.unwrap() {
            assert_eq!(row.attempts, 1);
        }
    }
}

/// Rows that move to another partition when they complete: the server refuses a claim that meets such a row with 40001.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_move_between_partitions_fail_no_row_and_no_run() {
    let Some(bench) = Bench::postgres().await else { return };
    for each in [false, true] {
        for sql in [
            "DROP TABLE IF EXISTS job",
            "DROP TABLE IF EXISTS effect",
            "CREATE TABLE job (id BIGINT NOT NULL, payload VARCHAR NOT NULL, status VARCHAR NOT NULL, error_message VARCHAR, \
             attempts INT NOT NULL, due TIMESTAMPTZ, updated_at TIMESTAMPTZ NOT NULL, PRIMARY KEY (id, status)) \
             PARTITION BY LIST (status)",
            "CREATE TABLE job_pending PARTITION OF job FOR VALUES IN ('pending')",
            "CREATE TABLE job_done PARTITION OF job DEFAULT",
            "CREATE TABLE effect (job BIGINT NOT NULL)",
        ] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        crate::tables::more_jobs(&bench.db, 1..=300).await;
        let workers: Vec<_> = (0..6)
            .map(|n| {
                let service_db = ServiceDb::new(bench.db.clone(), format!("worker{n}"));
                tokio::spawn(async move { while work(&service_db, each, well).await.unwrap() != Outcome::idle() {} })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        let left = ServiceDb::new(bench.db.clone(), "last");
        while work(&left, each, well).await.unwrap() != Outcome::idle() {}
        assert_eq!(effects(&bench.db).await, (1..=300).collect::<Vec<_>>(), "{each}");
        for row in job::Entity::find().all(&bench.db).await.unwrap() {
            assert_eq!((&*row.status, row.attempts), ("completed", 1), "{each}: {row:?}");
        }
    }
}

/// Whether the claim index is valid; `None` if there is none.
async fn claim_index_is_valid(bench: &Bench) -> Option<bool> {
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('job_claim_idx')";
    let row = bench.db.query_one_raw(Statement::from_string(sea_orm::DbBackend::Postgres, sql)).await.unwrap();
    row.map(|row| row.try_get_by_index(0).unwrap())
}

/// Another session builds the index for a long time, because an old transaction has written to the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_index_that_another_session_builds_is_left_to_it() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 5).await;
    let writer = bench.db.begin().await.unwrap();
    writer.execute_unprepared("UPDATE job SET payload = 'changed' WHERE id = 1").await.unwrap();
    let sql = database::claim_index::<job::Entity>(sea_orm::DbBackend::Postgres);
    let sql = sql.replace("INDEX IF NOT EXISTS", "INDEX CONCURRENTLY");
    let builder = tokio::spawn({
        let db = bench.db.clone();
        async move { db.execute_unprepared(&sql).await }
    });
    let begun = Instant::now();
    while claim_index_is_valid(&bench).await.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let starting: Vec<_> = (0..3)
        .map(|_| {
            let db = bench.db.clone();
            tokio::spawn(async move { database::create_claim_index::<job::Entity>(&db).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let read = tokio::time::timeout(Duration::from_millis(500), job::Entity::find().all(&bench.db)).await;
    assert_eq!(read.expect("a reader does not wait").unwrap().len(), 5);
    for start in starting {
        let started = tokio::time::timeout(Duration::from_secs(20), start).await;
        started.expect("a start does not wait for the old transaction").unwrap().unwrap();
    }
    assert_eq!(claim_index_is_valid(&bench).await, Some(false));
    writer.commit().await.unwrap();
    builder.await.unwrap().expect("the index is built");
    assert_eq!(claim_index_is_valid(&bench).await, Some(true));
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
}

/// Replicas that start together, without an index, and with one whose creation has failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_replicas_create_the_claim_index_at_once() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 2000).await;
    for round in 0..6 {
        let prepare = match round % 2 {
            0 => "DROP INDEX IF EXISTS job_claim_idx",
            _ => "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_claim_idx'::regclass",
        };
        bench.db.execute_unprepared(prepare).await.unwrap();
        let starting: Vec<_> = (0..6)
            .map(|_| {
                let db = bench.db.clone();
                tokio::spawn(async move { database::create_claim_index::<job::Entity>(&db).await })
            })
            .collect();
        for start in starting {
            start.await.unwrap().unwrap();
        }
        assert_eq!(claim_index_is_valid(&bench).await, Some(true), "{round}");
    }
}

/// A backup reads the table for hours: an invalid index cannot be dropped, and other readers do not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_claim_index_that_cannot_be_dropped_is_an_error() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 5).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_claim_idx'::regclass";
    bench.db.execute_unprepared(invalid).await.unwrap();
    let backup = bench.db.begin().await.unwrap();
    assert_eq!(job::Entity::find().all(&backup).await.unwrap().len(), 5);
    let created = database::create_claim_index::<job::Entity>(&bench.db);
    let created = tokio::time::timeout(Duration::from_secs(20), created).await.expect("it does not wait for hours");
    let error = format!("{:#}", created.unwrap_err());
    assert!(error.contains("`job_claim_idx` is invalid, and cannot be dropped"), "{error}");
    assert_eq!(job::Entity::find().all(&bench.db).await.unwrap().len(), 5);
    backup.rollback().await.unwrap();
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    assert_eq!(claim_index_is_valid(&bench).await, Some(true));
}

/// The index of a partitioned table is not valid until it has been built for each partition, which an operator does one
/// by one.
#[tokio::test]
async fn an_index_that_is_built_partition_by_partition_is_not_dropped() {
    let Some(bench) = Bench::postgres().await else { return };
    let sql = database::claim_index::<job::Entity>(sea_orm::DbBackend::Postgres);
    for sql in [
        "CREATE TABLE job (id BIGINT NOT NULL, payload VARCHAR NOT NULL, status VARCHAR NOT NULL, error_message VARCHAR, \
         attempts INT NOT NULL, due TIMESTAMPTZ, updated_at TIMESTAMPTZ NOT NULL) PARTITION BY RANGE (id)",
        "CREATE TABLE job_low PARTITION OF job FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE job_high PARTITION OF job DEFAULT",
        &sql.replace(" ON ", " ON ONLY "),
        &sql.replace("job_claim_idx", "job_low_idx").replace("\"job\"", "job_low"),
        "ALTER INDEX job_claim_idx ATTACH PARTITION job_low_idx",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    assert_eq!(claim_index_is_valid(&bench).await, Some(false));
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    for sql in [
        &sql.replace("job_claim_idx", "job_high_idx").replace("\"job\"", "job_high"),
        "ALTER INDEX job_claim_idx ATTACH PARTITION job_high_idx",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    assert_eq!(claim_index_is_valid(&bench).await, Some(true));
}
