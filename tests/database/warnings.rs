//! Warnings about tables and rows with problems: once, with the fix.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, Statement};
use service_core::__private::database::ServiceDb;
use service_core::database::{self, Transaction};
use service_core::{Error, Outcome, Result};

use crate::Bench;
use crate::completions::until_there_are;
use crate::log::Log;
use crate::tables::{create, effect, effects, job, jobs, statuses};

async fn work(
    service_db: &ServiceDb,
    process: impl AsyncFn(&job::Model, &Transaction) -> Result<()>,
) -> Result<Outcome> {
    let mut batch = service_db.claim::<job::Entity>(10).await?;
    while let Some(item) = batch.next().await? {
        let done = process(item.model(), item.tx()).await;
        item.settle(done).await?;
    }
    batch.commit().await
}

async fn nothing(_: &job::Model, _: &Transaction) -> Result<()> {
    Ok(())
}

pub(crate) async fn a_missing_index_is_reported_once_with_its_sql(bench: Bench) {
    jobs(&bench.db, 3).await;
    let (log, _listening) = Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(3));
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::idle());
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let sql = warnings[0].split_once("or run: ").unwrap().1.split(" service.id").next().unwrap().to_owned();
    assert!(sql.starts_with("CREATE INDEX IF NOT EXISTS \"job_claim_idx\" ON \"job\""), "{sql}");
    bench.db.execute_unprepared(&sql).await.unwrap();
    let other = ServiceDb::new(bench.db.clone(), "other");
    assert_eq!(work(&other, nothing).await.unwrap(), Outcome::idle());
    assert_eq!(log.warnings().len(), 1, "now the index exists");
}

/// Another program has created the table, with other letters. For SQLite it is the same table.
#[tokio::test]
async fn on_sqlite_a_table_is_inspected_whatever_the_case_of_its_name() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 3).await;
    for sql in ["ALTER TABLE job RENAME TO other", "ALTER TABLE other RENAME TO Job"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let (log, _listening) = Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(3));
    assert_eq!(log.warnings().len(), 1, "the index is missing: {:?}", log.warnings());
    let columns = "(STATUS, DUE) WHERE STATUS = 'pending'";
    bench.db.execute_unprepared(&format!("CREATE INDEX JOB_CLAIM_IDX ON Job {columns}")).await.unwrap();
    let error = database::create_claim_index::<job::Entity>(&bench.db).await.unwrap_err().to_string();
    assert!(error.contains("does not serve the claims"), "without instants: {error}");
    for sql in ["DROP INDEX job_claim_idx", &database::claim_index::<job::Entity>(DbBackend::Sqlite).to_uppercase()] {
        bench
            .db
            .execute_unprepared(
                &sql.replace("'PENDING'", "'pending'")
                    .replace("'INTEGER'", "'integer'")
                    .replace("'UNIXEPOCH'", "'unixepoch'"),
            )
            .await
            .unwrap();
    }
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    let other = ServiceDb::new(bench.db.clone(), "other");
    assert_eq!(work(&other, nothing).await.unwrap(), Outcome::idle());
    assert_eq!(log.warnings().len(), 1, "now the index exists: {:?}", log.warnings());
}

/// The claim fails and says why. An index would not help.
pub(crate) async fn a_missing_table_is_not_reported_as_missing_an_index(bench: Bench) {
    let (log, _listening) = Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let error = format!("{:#}", work(&service_db, nothing).await.unwrap_err());
    assert!(error.contains("cannot claim rows of `job`"), "{error}");
    assert_eq!(log.warnings(), Vec::<String>::new());
    jobs(&bench.db, 1).await;
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(1));
    assert_eq!(log.warnings().len(), 1, "now the table exists, without an index");
}

pub(crate) async fn rows_that_are_left_out_are_reported_with_their_keys(bench: Bench) {
    jobs(&bench.db, 4).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    if bench.is_postgres() {
        bench.db.execute_unprepared("ALTER TABLE job ALTER COLUMN payload DROP NOT NULL").await.unwrap();
        bench.db.execute_unprepared("UPDATE job SET payload = NULL WHERE id = 2").await.unwrap();
    } else {
        bench.db.execute_unprepared("UPDATE job SET updated_at = 'never' WHERE id = 2").await.unwrap();
    }
    bench.db.execute_unprepared("UPDATE job SET status = 'panding' WHERE id = 3").await.unwrap();
    let (log, _listening) = Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(2).failed(1));
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::idle());
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|line| line.contains("panding") && line.contains("\"job\"")), "{warnings:?}");
    assert!(warnings.iter().any(|line| line.contains("key=\"2\"") && line.contains("cannot be read")), "{warnings:?}");
    assert_eq!(statuses(&bench.db).await, ["completed", "failed", "panding", "completed"]);
}

mod narrow {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "String(StringLen::None)")]
    pub(crate) enum Status {
        #[sea_orm(string_value = "pending")]
        Pending,
        #[sea_orm(string_value = "done")]
        Done,
    }

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "narrow")]
    #[work_item(status = "status")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: Status,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) async fn a_batch_without_a_commit_is_reported(bench: Bench) {
    jobs(&bench.db, 3).await;
    let (log, _listening) = Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let settle_two = async || -> Result<()> {
        let mut batch = service_db.claim::<job::Entity>(2).await?;
        while let Some(item) = batch.next().await? {
            item.settle(Ok::<(), Error>(())).await?;
        }
        Ok(())
    };
    // The connection of a dropped batch is rolled back a moment later. Until then, claims skip its rows.
    let dropped = async || {
        if bench.is_postgres() {
            until_unlocked(&bench.db).await;
        }
    };
    let reports = || log.warnings().into_iter().filter(|line| line.contains("batch.commit()")).collect::<Vec<_>>();
    settle_two().await.unwrap();
    dropped().await;
    service_db.settle(Some("the run failed")).await.unwrap();
    assert_eq!(reports(), Vec::<String>::new(), "a run that fails drops its batch");
    let settle_one = async || -> Result<()> {
        let mut batch = service_db.claim::<job::Entity>(2).await?;
        let item = batch.next().await?.expect("a job");
        item.settle(Ok::<(), Error>(())).await
    };
    settle_one().await.unwrap();
    dropped().await;
    service_db.settle(None).await.unwrap();
    assert_eq!(reports(), Vec::<String>::new(), "it ends early, as a `for_each` that is dropped");
    settle_two().await.unwrap();
    dropped().await;
    service_db.settle(None).await.unwrap();
    let reports = reports();
    assert!(matches!(&reports[..], [report] if report.contains("2 of its items")), "{reports:?}");
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(3));
    assert_eq!(log.warnings().len(), 2, "{:?}", log.warnings());
}

pub(crate) async fn a_status_enum_without_the_statuses_is_refused(bench: Bench) {
    create(&bench.db, narrow::Entity).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    for _ in 0..2 {
        let error = service_db.claim::<narrow::Entity>(1).await.unwrap_err().to_string();
        assert!(error.contains("`narrow`") && error.contains("`completed`, `failed`"), "{error}");
    }
}

pub(crate) async fn the_error_names_a_missing_table(bench: Bench) {
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let error = service_db.claim::<job::Entity>(1).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot claim rows of `job`");
    assert!(format!("{error:#}").contains("job"), "{error:#}");
    assert!(error.find::<sea_orm::DbErr>().is_some());
}

/// PostgreSQL: the row breaks its connection every time. From the third time on it loses an attempt; the others only
/// wait.
#[tokio::test]
async fn a_row_that_breaks_its_connection_is_detected() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 5).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
        effect(tx, job.id).await?;
        if job.id == 2 {
            tx.execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
        }
        Ok(())
    };
    for attempts in [0, 0, 1] {
        let error = work(&service_db, process).await.unwrap_err();
        service_db.settle(Some(&error.to_string())).await.unwrap();
        assert_eq!(crate::tables::job(&bench.db, 2).await.attempts, attempts, "{error:#}");
        until_unlocked(&bench.db).await;
    }
    // The steps above may have taken longer than the wait of the row.
    let postponed = bench.db.execute_unprepared(
        "UPDATE job SET due = due + interval '1 hour' WHERE id = 2 AND due > now() - interval '1 hour'",
    );
    assert_eq!(postponed.await.unwrap().rows_affected(), 1, "it has a time for its next attempt");
    assert_eq!(work(&service_db, process).await.unwrap(), Outcome::processed(4), "it waits for its next attempt");
    assert_eq!(effects(&bench.db).await, [1, 3, 4, 5]);
}

/// PostgreSQL: a row that is claimed alone, because two connections broke under it, keeps no other back. It may also be
/// gone.
#[tokio::test]
async fn a_claim_of_a_suspect_row_alone_leaves_the_others_to_the_next_run_at_once() {
    let Some(bench) = Bench::postgres().await else { return };
    for (is_gone, processed) in [(false, 1), (true, 0)] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 5).await;
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let breaks = async |job: &job::Model, tx: &Transaction| -> Result<()> {
            if job.id == 2 {
                tx.execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
            }
            Ok(())
        };
        for _ in 0..2 {
            let error = work(&service_db, breaks).await.unwrap_err();
            service_db.settle(Some(&error.to_string())).await.unwrap();
            until_unlocked(&bench.db).await;
        }
        if is_gone {
            bench.db.execute_unprepared("DELETE FROM job WHERE id = 2").await.unwrap();
        }
        assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(processed).again(), "{is_gone}");
        let completed = statuses(&bench.db).await.iter().filter(|status| *status == "completed").count();
        assert_eq!(completed as u64, processed, "{is_gone}");
        for _ in 0..4 {
            assert_eq!(work(&service_db, nothing).await.unwrap().items_processed(), 1, "{is_gone}");
        }
        assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::idle(), "{is_gone}");
    }
}

/// Waits until the locks are released: a terminated server process first notifies its client, and then releases its
/// locks. The predicate locks of serializable transactions do not count: they stay until every concurrent transaction
/// of the server has ended.
async fn until_unlocked(db: &DatabaseConnection) {
    let held = "SELECT count(*) AS n FROM pg_locks WHERE relation = 'job'::regclass AND pid <> pg_backend_pid() \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND mode <> 'SIReadLock'";
    let held = Statement::from_string(DbBackend::Postgres, held);
    let unlocked = async {
        while db.query_one_raw(held.clone()).await.unwrap().unwrap().try_get::<i64>("", "n").unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), unlocked).await.expect("its locks are released");
}

/// PostgreSQL: the run is cancelled during a statement, which continues in the server and keeps the row locked.
#[tokio::test]
async fn a_row_that_its_run_still_locks_loses_its_attempt_later() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 2).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let hangs = async |job: &job::Model, tx: &Transaction| -> Result<()> {
        if job.id == 1 {
            tx.execute_unprepared("SELECT pg_sleep(600)").await?;
        }
        Ok(())
    };
    let sleeping = "pg_stat_activity WHERE datname = current_database() AND query = 'SELECT pg_sleep(600)'";
    tokio::select! {
        run = work(&service_db, hangs) => panic!("it ends: {run:?}"),
        () = until_there_are(&bench, 1, sleeping) => {}
    }
    service_db.settle(Some("timed out")).await.unwrap();
    assert_eq!(crate::tables::job(&bench.db, 1).await.attempts, 0, "still locked");
    bench.db.execute_unprepared(&format!("SELECT pg_cancel_backend(pid) FROM {sleeping}")).await.unwrap();
    until_unlocked(&bench.db).await;
    assert_eq!(work(&service_db, nothing).await.unwrap(), Outcome::processed(1));
    let row = crate::tables::job(&bench.db, 1).await;
    assert_eq!((row.attempts, row.error_message.as_deref()), (1, Some("timed out")));
}

/// In memory, the connections of the pool share one cache: a reader must not wait for the batch of its own service.
#[tokio::test]
async fn in_memory_a_batch_can_be_read_beside() {
    let db = database::connect("sqlite::memory:").await.unwrap();
    database::migrate(&db).await.unwrap();
    jobs(&db, 2).await;
    let service_db = ServiceDb::new(db.clone(), "worker");
    let process = async |job: &job::Model, tx: &Transaction| -> Result<()> {
        effect(tx, job.id).await?;
        let beside = tokio::time::timeout(Duration::from_secs(5), job::Entity::find().all(&db)).await;
        assert_eq!(beside.map_err(Error::new)??.len(), 2);
        assert_eq!(service_db.store().get::<u8>("nothing").await?, None);
        Ok(())
    };
    assert_eq!(work(&service_db, process).await.unwrap(), Outcome::processed(2));
    assert_eq!(effects(&db).await, [1, 2]);
}

/// On SQLite a batch holds the write lock: another write fails at once, and the error names the fix.
#[tokio::test]
async fn on_sqlite_writing_past_an_open_batch_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let db = database::connect(&format!("sqlite:{}", dir.path().join("x.db").display())).await.unwrap();
    database::migrate(&db).await.unwrap();
    jobs(&db, 1).await;
    let service_db = ServiceDb::new(db.clone(), "worker");
    let process = async |_: &job::Model, _: &Transaction| -> Result<()> { service_db.store().set("cursor", &1).await };
    assert_eq!(work(&service_db, process).await.unwrap(), Outcome::processed(0).failed(1));
    let message = crate::tables::job(&db, 1).await.error_message.unwrap();
    assert!(message.contains("a batch of this service holds it") && message.contains("item.tx()"), "{message}");
}

/// PostgreSQL reports "already exists, skipping", which the driver logs, where a table or an index is created that
/// exists.
pub(crate) async fn a_start_logs_nothing_of_the_database(bench: Bench) {
    jobs(&bench.db, 1).await;
    let (log, _listening) = Log::listen_to("sqlx");
    let lines = || -> Vec<String> { log.lines().into_iter().filter(|line| !line.starts_with("DEBUG")).collect() };
    for table in [None, Some("service_state"), Some("service_claim")] {
        if let Some(table) = table {
            // As after an upgrade of the crate.
            bench.db.execute_unprepared(&format!("DROP TABLE {table}")).await.unwrap();
        }
        database::migrate(&bench.db).await.unwrap();
        database::check_schema(&bench.db).await.unwrap();
        for _ in 0..2 {
            database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
        }
        assert_eq!(lines(), Vec::<String>::new());
    }
    let index = database::claim_index::<job::Entity>(bench.db.get_database_backend());
    bench.db.execute_unprepared(&index).await.unwrap();
    assert_eq!(lines().len(), usize::from(bench.is_postgres()), "the test hears it");
}
