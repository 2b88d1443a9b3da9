use sea_orm::DatabaseConnection;

use super::super::work_item::{Work, any_status, time_value};
use super::*;
use crate::database::{connect, create_claim_index};

mod job {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "job")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) payload: String,
        pub(crate) status: String,
        pub(crate) due: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

impl WorkItem for job::Entity {
    fn __work() -> Work<job::Column> {
        Work {
            status: job::Column::Status,
            known_statuses: any_status,
            error: None,
            attempts: None,
            max_attempts: 1,
            available_at: Some((job::Column::Due, time_value::<Option<DateTime<Utc>>>)),
            updated_at: None,
        }
    }
}

/// How SQLite goes about a query, a line a step.
async fn steps(db: &DatabaseConnection, query: &SelectStatement) -> String {
    let sql = query.to_string(sea_orm::sea_query::SqliteQueryBuilder);
    let steps = db
        .query_all_raw(sea_orm::Statement::from_string(db.get_database_backend(), format!("EXPLAIN QUERY PLAN {sql}")));
    let steps = steps.await.expect("a plan");
    steps.iter().map(|step| step.try_get::<String>("", "detail").expect("a step") + "\n").collect()
}

#[tokio::test]
async fn on_sqlite_a_claim_of_any_size_follows_the_index() {
    let db = connect("sqlite::memory:").await.unwrap();
    for sql in [
        "CREATE TABLE job (id INTEGER PRIMARY KEY, payload TEXT NOT NULL, status TEXT NOT NULL, due TEXT)",
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 5000) \
         INSERT INTO job (id, payload, status) SELECT n, 'job ' || n, 'pending' FROM number",
    ] {
        db.execute_unprepared(sql).await.unwrap();
    }
    create_claim_index::<job::Entity>(&db).await.unwrap();
    // With figures about the table, SQLite is bolder.
    db.execute_unprepared("ANALYZE").await.unwrap();
    let request = Request::<job::Entity> {
        access: Access::new(db.clone(), "test"),
        wanted: 1,
        filter: Condition::all(),
        order: Vec::new(),
        backoff: Backoff::default(),
        lease: Duration::from_secs(60),
    };
    let now = request.access.clock.now();
    for limit in [1, 2, 101] {
        for query in [request.due(now, limit), request.due_keys(now, limit)] {
            let steps = steps(&db, &query).await;
            assert!(steps.contains("USING COVERING INDEX job_claim_idx"), "{limit}:\n{steps}");
            assert!(!steps.contains("SCAN job\n"), "{limit}:\n{steps}");
        }
    }
}
