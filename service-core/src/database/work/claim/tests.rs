use sea_orm::DatabaseConnection;
use sea_orm::sea_query::ValueTuple;

use super::*;
use crate::database::work::attempt::RowRef;
use crate::database::work::due::RowKind;
use crate::database::work::left_out::LeftOut;
use crate::database::work::work_item::{Work, any_status, time_value};
use crate::database::work::work_state::WorkState;
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
            retain_completed: None,
        }
    }
}

/// SQLite's plan for a query, one line for each step.
async fn steps(db: &DatabaseConnection, query: &sea_orm::Statement) -> String {
    let sql = format!("EXPLAIN QUERY PLAN {}", query.sql);
    let values = query.values.clone().unwrap_or(sea_orm::Values(Vec::new()));
    let explain = sea_orm::Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let steps = db.query_all_raw(explain).await.expect("SQLite explains");
    steps.iter().map(|step| step.try_get::<String>("", "detail").expect("a detail") + "\n").collect()
}

/// A table of 5,000 pending rows, all due at `due`.
async fn table(due: &str) -> DatabaseConnection {
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
    // With statistics about the table, SQLite chooses other plans.
    db.execute_unprepared("ANALYZE").await.expect("statistics");
    db
}

#[tokio::test]
async fn on_sqlite_a_claim_of_any_size_finds_its_rows_by_the_index() {
    for due in ["NULL", "'2026-01-01T00:00:00+00:00'", "'9999-01-01T00:00:00+00:00'"] {
        let db = table(due).await;
        for dated_first in [false, true] {
            let rows = DueRows::<job::Entity> {
                backend: DbBackend::Sqlite,
                filter: Condition::all(),
                order: Vec::new(),
                may_lack_times: false,
                dated_first,
                index: Some("job_claim_idx".to_owned()),
                generation: 0,
            };
            assert_eq!(rows.kinds().len(), 2);
            for limit in [1, 2, 101] {
                let keys = [RowKind::Undated, RowKind::Dated].map(|kind| rows.keys(kind, Utc::now(), limit));
                for query in keys.into_iter().chain([rows.statement(Utc::now(), limit)]) {
                    let steps = steps(&db, &query).await;
                    // Through the index, and not through all pending rows.
                    assert!(
                        steps.contains("SEARCH job USING INDEX job_claim_idx (<expr>"),
                        "{due} {limit}:\n{}\n{steps}",
                        query.sql
                    );
                    assert!(!steps.contains("SCAN job"), "{due} {limit}:\n{steps}");
                    let sorts = steps.matches("TEMP B-TREE").count();
                    assert!(sorts <= 2 && (sorts == 0 || steps.contains("service_")), "{due} {limit}:\n{steps}");
                }
            }
        }
    }
}

#[test]
fn rows_that_wait_are_left_out_although_they_are_many() {
    let (work, table) = (WorkState::new(None), TableSql::of::<job::Entity>(DbBackend::Postgres, Backoff::default()));
    let leave_out = |ids: std::ops::Range<i64>, why| {
        for id in ids {
            work.leave_out(&table, &ValueTuple::One(id.into()), "a conflict".to_owned(), why);
        }
    };
    leave_out(0..3_000, LeftOut::Waits(Duration::from_secs(60)));
    leave_out(3_000..3_200, LeftOut::Unwritable);
    assert_eq!(work.left_out_keys(&table).map(|keys| keys.len()), Some(3_200));
    leave_out(3_200..3_201, LeftOut::Unwritable);
    assert_eq!(work.left_out_keys(&table), None, "they are to be corrected");
}

#[test]
fn rows_whose_key_cannot_be_read_are_among_those_that_are_left_out() {
    let (work, table) = (WorkState::new(None), TableSql::of::<job::Entity>(DbBackend::Sqlite, Backoff::default()));
    let shown = || work.left_out_rows().into_iter().map(|rows| (rows.count, rows.key, rows.reason)).next();
    work.keys_were_read(&table, 0, None);
    assert_eq!(shown(), None);
    work.keys_were_read(&table, 3, Some(&DbErr::Type("not a number".to_owned())));
    let expected = (3, "one whose key cannot be read".to_owned(), "Type Error: not a number".to_owned());
    assert_eq!(shown(), Some(expected));
    work.leave_out(&table, &ValueTuple::One(7_i64.into()), "a conflict".to_owned(), LeftOut::Unwritable);
    assert_eq!(shown(), Some((4, "7".to_owned(), "a conflict".to_owned())));
    work.keys_were_read(&table, 0, None);
    assert_eq!(shown(), Some((1, "7".to_owned(), "a conflict".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn errors_long_ago_do_not_count_and_are_not_kept() {
    let (work, table) = (WorkState::new(None), TableSql::of::<job::Entity>(DbBackend::Sqlite, Backoff::default()));
    let row = |id: i64| RowRef { key: ValueTuple::One(id.into()), attempts: 0 };
    let lose = |id| work.count_loss(&table, &row(id), Some(ErrorKind::ConnectionLost));
    for id in 0..100 {
        assert!(!lose(id) && !lose(id));
    }
    assert_eq!(work.rows_with_losses(), 100);
    // A row may be left out of claims for an hour in between.
    tokio::time::advance(Duration::from_secs(3_700)).await;
    assert!(lose(1), "the third in a row");
    tokio::time::advance(Duration::from_secs(3_700)).await;
    assert!(!lose(2), "the last one was two hours ago");
    assert_eq!(work.rows_with_losses(), 2);
}
