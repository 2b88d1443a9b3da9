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

fn request(db: &DatabaseConnection, filter: Condition) -> Request<job::Entity> {
    Request {
        access: Access::new(db.clone(), "test"),
        wanted: 1,
        filter,
        order: Vec::new(),
        backoff: Backoff::default(),
        lease: Duration::from_secs(60),
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
    let request = request(&db, Condition::all());
    let now = request.access.clock.now();
    for limit in [1, 2, 101] {
        for query in [request.due(now, limit), request.due_keys(now, limit)] {
            let steps = steps(&db, &query).await;
            assert!(steps.contains("USING COVERING INDEX job_claim_idx"), "{limit}:\n{steps}");
            // A search ends with the rows that are due; a scan goes on through those that are not.
            assert!(!steps.contains("SCAN job"), "{limit}:\n{steps}");
        }
    }
}

#[tokio::test]
async fn on_sqlite_rows_without_a_time_come_first_and_those_not_due_never() {
    let db = connect("sqlite::memory:").await.unwrap();
    for sql in [
        "CREATE TABLE job (id INTEGER PRIMARY KEY, payload TEXT NOT NULL, status TEXT NOT NULL, due TEXT)",
        "INSERT INTO job (id, payload, status, due) VALUES \
         (1, '', 'pending', '2999-01-01T00:00:00+00:00'), (2, '', 'pending', '2002-01-01T00:00:00+00:00'), \
         (3, '', 'pending', '2001-01-01T00:00:00+00:00'), (4, '', 'pending', NULL), (5, '', 'completed', NULL), \
         (6, 'not this', 'pending', NULL)",
    ] {
        db.execute_unprepared(sql).await.unwrap();
    }
    let request = request(&db, Condition::all().add(sea_orm::ColumnTrait::eq(&job::Column::Payload, "")));
    for (limit, expected) in [(1, vec![4]), (2, vec![4, 3]), (9, vec![4, 3, 2])] {
        let rows = db.query_all(&request.due(request.access.clock.now(), limit)).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.try_get("", "id").unwrap()).collect();
        assert_eq!(ids, expected);
    }
}
