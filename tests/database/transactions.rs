//! `Transaction` and the framework's tables.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};
use service_core::__private::database::ServiceDb;
use service_core::database;

use crate::Bench;

async fn table(db: &DatabaseConnection) {
    db.execute_unprepared("CREATE TABLE thing (id BIGINT PRIMARY KEY)").await.unwrap();
}

async fn put(tx: &impl ConnectionTrait, id: i64) -> Result<(), sea_orm::DbErr> {
    tx.execute_unprepared(&format!("INSERT INTO thing VALUES ({id})")).await.map(drop)
}

async fn ids(db: &DatabaseConnection) -> Vec<i64> {
    let select = Statement::from_string(db.get_database_backend(), "SELECT id FROM thing ORDER BY id");
    db.query_all_raw(select).await.unwrap().iter().map(|row| row.try_get("", "id").unwrap()).collect()
}

pub(crate) async fn writes_without_a_commit_are_rolled_back(bench: Bench) {
    table(&bench.db).await;
    let service_db = ServiceDb::new(bench.db.clone(), "test");
    let tx = service_db.begin().await.unwrap();
    put(&tx, 1).await.unwrap();
    tx.commit().await.unwrap();
    let tx = service_db.begin().await.unwrap();
    put(&tx, 2).await.unwrap();
    drop(tx);
    let tx = service_db.begin().await.unwrap();
    put(&tx, 3).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(ids(&bench.db).await, [1]);
}

pub(crate) async fn a_rolled_back_savepoint_undoes_only_its_own_writes(bench: Bench) {
    table(&bench.db).await;
    let tx = ServiceDb::new(bench.db.clone(), "test").begin().await.unwrap();
    put(&tx, 1).await.unwrap();
    let inner = TransactionTrait::begin(&tx).await.unwrap();
    put(&inner, 2).await.unwrap();
    inner.rollback().await.unwrap();
    let inner = TransactionTrait::begin(&tx).await.unwrap();
    put(&inner, 3).await.unwrap();
    inner.commit().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ids(&bench.db).await, [1, 3]);
}

/// After a failed statement, PostgreSQL answers `COMMIT` with a silent rollback.
pub(crate) async fn a_commit_after_an_ignored_error_is_an_error(bench: Bench) {
    table(&bench.db).await;
    let tx = ServiceDb::new(bench.db.clone(), "test").begin().await.unwrap();
    put(&tx, 1).await.unwrap();
    put(&tx, 1).await.unwrap_err();
    let committed = tx.commit().await.is_ok();
    assert_eq!(ids(&bench.db).await == [1], committed);
    assert_eq!(committed, bench.db.get_database_backend() == DbBackend::Sqlite);
}

pub(crate) async fn writers_wait_for_each_other(bench: Bench) {
    table(&bench.db).await;
    let writers: Vec<_> = (0..8)
        .map(|id| {
            let service_db = ServiceDb::new(bench.db.clone(), "test");
            tokio::spawn(async move {
                let tx = service_db.begin().await.unwrap();
                let seen = Statement::from_string(tx.get_database_backend(), "SELECT count(*) FROM thing");
                tx.query_one_raw(seen).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
                put(&tx, id).await.unwrap();
                tx.commit().await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(ids(&bench.db).await.len(), 8);
}

pub(crate) async fn a_dropped_commit_still_commits(bench: Bench) {
    table(&bench.db).await;
    let service_db = ServiceDb::new(bench.db.clone(), "test");
    for id in 0..20 {
        let tx = service_db.begin().await.unwrap();
        put(&tx, id).await.unwrap();
        {
            let commit = tx.commit();
            tokio::pin!(commit);
            // Polled once, then dropped.
            let _ = tokio::time::timeout(Duration::ZERO, &mut commit).await;
        }
        service_db.commits().finished().await;
    }
    assert_eq!(ids(&bench.db).await.len(), 20);
}

pub(crate) async fn many_replicas_create_the_tables_at_once(bench: Bench) {
    for table in
        ["service_claim", "service_store", "service_config", "service_override", "service_state", "service_audit"]
    {
        bench.db.execute_unprepared(&format!("DROP TABLE {table}")).await.unwrap();
    }
    let message = database::check_schema(&bench.db).await.unwrap_err().to_string();
    assert!(message.contains("service_claim, service_store") && message.contains("schema_sql"), "{message}");
    let replicas: Vec<_> = (0..8)
        .map(|_| {
            let url = bench.url.clone();
            tokio::spawn(async move { database::migrate(&database::connect(&url).await.unwrap()).await.unwrap() })
        })
        .collect();
    for replica in replicas {
        replica.await.unwrap();
    }
    database::check_schema(&bench.db).await.unwrap();
}

pub(crate) async fn missing_columns_are_added_to_an_older_table(bench: Bench) {
    for column in ["seq", "crashes", "concurrency"] {
        bench.db.execute_unprepared(&format!("ALTER TABLE service_claim DROP COLUMN {column}")).await.unwrap();
    }
    let old = "INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at) VALUES ('job', '1', 'mailer', 'me', 1)";
    bench.db.execute_unprepared(old).await.unwrap();
    for column in ["schedule", "marked_fire"] {
        bench.db.execute_unprepared(&format!("ALTER TABLE service_state DROP COLUMN {column}")).await.unwrap();
    }
    let message = database::check_schema(&bench.db).await.unwrap_err().to_string();
    for column in ["seq", "crashes", "schedule", "marked_fire"] {
        assert!(message.contains(&format!("ADD COLUMN {column}")), "{message}");
    }
    let replicas = (0..4).map(|_| {
        let url = bench.url.clone();
        tokio::spawn(async move { database::migrate(&database::connect(&url).await.unwrap()).await.unwrap() })
    });
    for replica in replicas.collect::<Vec<_>>() {
        replica.await.unwrap();
    }
    database::check_schema(&bench.db).await.unwrap();
    let select =
        Statement::from_string(bench.db.get_database_backend(), "SELECT seq, crashes, concurrency FROM service_claim");
    let row = bench.db.query_one_raw(select).await.unwrap().unwrap();
    let kept: Vec<i64> = ["seq", "crashes", "concurrency"].map(|column| row.try_get("", column).unwrap()).to_vec();
    assert_eq!(kept, [0, 0, 1]);
}

/// A transaction that is cancelled while it begins, by a timeout for example, leaves its connection outside of one:
/// what others write through that connection is kept.
pub(crate) async fn a_begin_that_is_cancelled_leaves_nothing_open(bench: Bench) {
    table(&bench.db).await;
    let mut options = sea_orm::ConnectOptions::new(bench.url.clone());
    options.max_connections(2);
    let pool = sea_orm::Database::connect(options).await.unwrap();
    let service_db = ServiceDb::new(pool.clone(), "test");
    for id in 0..60 {
        {
            let begin = service_db.begin();
            tokio::pin!(begin);
            for _ in 0..id % 4 + 1 {
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(begin.as_mut().poll(cx))).await;
                if polled.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..300))).await;
            }
        }
        put(&pool, id).await.unwrap();
        // As another connection sees it.
        let found = ids(&bench.db).await.len();
        assert_eq!(i64::try_from(found).unwrap(), id + 1, "what was written is not committed");
    }
}

/// SQLite: many programs open the same new file at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_sqlite_a_new_file_can_be_opened_many_times_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("app.db").display());
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move {
                    let db = database::connect(&url).await.unwrap();
                    database::migrate(&db).await.unwrap();
                    db.close().await.unwrap();
                })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap();
        }
    }
}
