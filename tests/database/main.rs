//! One suite, run unchanged on SQLite and on a PostgreSQL that it starts itself.

#[path = "../support/postgres.rs"]
mod postgres;

mod transactions;

use sea_orm::DatabaseConnection;
use service_core::database;

/// An empty database with the framework's tables, for one test.
pub(crate) struct Bench {
    pub(crate) db: DatabaseConnection,
    pub(crate) url: String,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("test.db").display());
        Self::open(url, Some(dir)).await
    }

    async fn postgres() -> Option<Self> {
        let server = tokio::task::spawn_blocking(postgres::Postgres::shared).await.unwrap()?;
        let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
        Some(Self::open(url, None).await)
    }

    async fn open(url: String, dir: Option<tempfile::TempDir>) -> Self {
        let db = database::connect(&url).await.unwrap();
        database::migrate(&db).await.unwrap();
        Self { db, url, _dir: dir }
    }
}

/// Each case is an `async fn(Bench)`; it becomes a test on either engine.
macro_rules! exercise {
    ($($module:ident: $($case:ident),+;)+) => {
        mod on_sqlite {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::Bench::sqlite().await).await;
                }
            )+ })+
        }
        mod on_postgres {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(bench) = crate::Bench::postgres().await {
                        crate::$module::$case(bench).await;
                    }
                }
            )+ })+
        }
    };
}

exercise! {
    transactions:
        what_is_not_committed_is_undone,
        a_savepoint_undoes_only_its_own,
        a_commit_after_an_ignored_error_does_not_lie,
        writers_wait_for_each_other,
        a_dropped_commit_still_commits,
        many_replicas_make_the_tables_at_once;
}
