use sea_orm::DatabaseConnection;

use super::*;
use crate::database::work::work_item::{Work, any_status, time_value};
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
    let steps = steps.await.expect("SQLite explains");
    steps.iter().map(|step| step.try_get::<String>("", "detail").expect("a detail") + "\n").collect()
}

/// A table of 5,000 pending rows, those not due at `due`, and a request for them.
async fn request(due: &str) -> (DatabaseConnection, ClaimRequest<job::Entity>) {
    let db = connect("sqlite::memory:").await.expect("a database");
    let rows = format!(
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 5000) \
         INSERT INTO job (id, payload, status, due) SELECT n, 'job ' || n, 'pending', {due} FROM number"
    );
    for sql in
        ["CREATE TABLE job (id INTEGER PRIMARY KEY, payload TEXT NOT NULL, status TEXT NOT NULL, due TEXT)", &rows]
    {
        db.execute_unprepared(sql).await.expect("a table");
    }
    create_claim_index::<job::Entity>(&db).await.expect("an index");
    // With figures about the table, SQLite is bolder.
    db.execute_unprepared("ANALYZE").await.expect("figures");
    let request = ClaimRequest {
        service_db: ServiceDb::new(db.clone(), "test"),
        wanted: 1,
        filter: Condition::all(),
        order: Vec::new(),
        backoff: Backoff::default(),
        lease: Duration::from_secs(60),
    };
    (db, request)
}

#[tokio::test]
async fn on_sqlite_a_claim_of_any_size_finds_its_rows_by_the_index() {
    for due in ["NULL", "'2026-01-01T00:00:00+00:00'", "'9999-01-01T00:00:00+00:00'"] {
        let (db, request) = request(due).await;
        let now = request.service_db.clock.now();
        let parts = sql::parts::<job::Entity>(&request.order);
        assert_eq!(parts.len(), 2);
        for (part, limit) in parts.iter().flat_map(|part| [1, 2, 101].map(|limit| (*part, limit))) {
            for query in [request.due(now, part, limit), request.due_keys(now, part, limit)] {
                let steps = steps(&db, &query).await;
                // Not through all that is pending: through what is asked for alone.
                assert!(
                    steps.contains("SEARCH job USING COVERING INDEX job_claim_idx (due"),
                    "{due} {limit} {part:?}:\n{steps}"
                );
                assert!(!steps.contains("SCAN job"), "{due} {limit} {part:?}:\n{steps}");
            }
        }
    }
}
