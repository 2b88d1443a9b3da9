//! The table that the product and the hand-written statements work off.

use measure::Task;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Schema, Statement};
use service_core::Result;
use service_core::database::{self, create_claim_index};

pub mod job {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "job")]
    #[work_item(
        status = "status",
        error = "error_message",
        attempts = "attempts",
        max_attempts = 5,
        available_at = "due",
        updated_at = "updated_at"
    )]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub payload: String,
        pub status: String,
        pub error_message: Option<String>,
        pub attempts: i32,
        pub due: Option<DateTimeUtc>,
        pub updated_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Fills a new database with waiting rows, and brings it to the state that one has after a while: checked in and
/// analysed.
pub async fn fill(task: &Task) -> DatabaseConnection {
    let db = database::connect(&task.url).await.expect("a database");
    database::migrate(&db).await.expect("the framework's tables");
    let schema = Schema::new(db.get_database_backend());
    db.execute(&schema.create_table_from_entity(job::Entity)).await.expect("a table of jobs");
    let half_dated = std::env::var_os("HALF_DATED").is_some();
    let (numbers, due, updated_at, settle) = match db.get_database_backend() {
        DbBackend::Postgres => (
            format!("WITH number (n) AS (SELECT generate_series(1, {}))", task.waiting),
            "now() - 2 * 1000000 * interval '1 second' + n * interval '1 second'",
            "now()",
            ["VACUUM ANALYZE job", "CHECKPOINT"],
        ),
        _ => (
            format!(
                "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {})",
                task.waiting
            ),
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', '2026-10-01', n || ' seconds')",
            "'2026-11-01T08:00:00+00:00'",
            ["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"],
        ),
    };
    // All of these times have passed.
    let due = if half_dated { format!("CASE WHEN n % 2 = 0 THEN {due} END") } else { "NULL".to_owned() };
    let insert = format!(
        "INSERT INTO job (id, payload, status, attempts, due, updated_at) \
         {numbers} SELECT n, 'job ' || n, 'pending', 0, {due}, {updated_at} FROM number"
    );
    db.execute_unprepared(measure::EFFECT).await.expect("a table of effects");
    db.execute_unprepared(&insert).await.expect("the jobs");
    create_claim_index::<job::Entity>(&db).await.expect("their index");
    for sql in settle {
        db.execute_unprepared(sql).await.expect("the end of the preparations");
    }
    db
}

/// The one insert for a row.
pub async fn insert(tx: &impl ConnectionTrait, job: i64) -> Result<()> {
    let backend = tx.get_database_backend();
    let sql = if backend == DbBackend::Postgres { measure::INSERT } else { "INSERT INTO effect (job) VALUES (?)" };
    tx.execute_raw(Statement::from_sql_and_values(backend, sql, [job.into()])).await?;
    Ok(())
}

/// Whether every effect belongs to a completed row, and the other way round.
pub async fn check(db: &DatabaseConnection) {
    let unequal = "SELECT 1 AS one FROM job LEFT JOIN effect ON effect.job = job.id \
                   WHERE (job.status = 'completed') <> (effect.job IS NOT NULL) LIMIT 1";
    let statement = Statement::from_string(db.get_database_backend(), unequal);
    assert!(db.query_one_raw(statement).await.expect("an answer").is_none(), "a row and its effect disagree");
}
