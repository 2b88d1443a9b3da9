//! The same statements, written by hand on sqlx: a claim, a savepoint and an insert for each row, one update, a commit.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use measure::{Progress, Task};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{QueryBuilder, Sqlite, Transaction};

#[derive(Debug, sqlx::FromRow)]
#[allow(dead_code, reason = "a worker reads the whole row, whether or not this one needs it")]
struct Job {
    id: i64,
    payload: String,
    status: String,
    error_message: Option<String>,
    attempts: i32,
    due: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

/// Sets an item's savepoint; the one before goes with the same round trip.
fn savepoint(first: bool) -> &'static str {
    if first { "SAVEPOINT item" } else { "RELEASE SAVEPOINT item; SAVEPOINT item" }
}

async fn on_postgres(pool: PgPool, progress: Arc<Progress>) -> sqlx::Result<()> {
    while !progress.is_reached() {
        let mut tx = pool.begin().await?;
        let jobs: Vec<Job> = sqlx::query_as(
            "SELECT id, payload, status, error_message, attempts, due, updated_at FROM job \
             WHERE status = 'pending' AND (due <= $1 OR due IS NULL) \
             ORDER BY due ASC NULLS FIRST, id LIMIT 100 FOR UPDATE SKIP LOCKED",
        )
        .bind(Utc::now())
        .fetch_all(&mut *tx)
        .await?;
        for (index, job) in jobs.iter().enumerate() {
            sqlx::raw_sql(savepoint(index == 0)).execute(&mut *tx).await?;
            sqlx::query(measure::INSERT).bind(job.id).execute(&mut *tx).await?;
        }
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        sqlx::query(
            "UPDATE job SET status = 'completed', error_message = NULL, attempts = attempts + 1, updated_at = $1 \
             WHERE id = ANY($2)",
        )
        .bind(Utc::now())
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        progress.add(ids.len() as u64);
    }
    Ok(())
}

/// SQLite's own waiting is not fair: of four writers, one may wait in vain for its busy timeout.
async fn begin_patiently(pool: &SqlitePool) -> sqlx::Result<Transaction<'static, Sqlite>> {
    loop {
        match pool.begin_with("BEGIN IMMEDIATE").await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("5") => {}
            other => return other,
        }
    }
}

async fn on_sqlite(pool: SqlitePool, progress: Arc<Progress>) -> sqlx::Result<()> {
    while !progress.is_reached() {
        let mut tx = begin_patiently(&pool).await?;
        let jobs: Vec<Job> = sqlx::query_as(
            "SELECT id, payload, status, error_message, attempts, due, updated_at FROM job \
             WHERE status = 'pending' AND (due <= ? OR due IS NULL) ORDER BY due, id LIMIT 100",
        )
        .bind(Utc::now())
        .fetch_all(&mut *tx)
        .await?;
        for (index, job) in jobs.iter().enumerate() {
            sqlx::raw_sql(savepoint(index == 0)).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO effect (job) VALUES (?)").bind(job.id).execute(&mut *tx).await?;
        }
        let mut update = QueryBuilder::<Sqlite>::new(
            "UPDATE job SET status = 'completed', error_message = NULL, attempts = attempts + 1, updated_at = ",
        );
        update.push_bind(Utc::now()).push(" WHERE id IN (");
        let mut ids = update.separated(", ");
        for job in &jobs {
            ids.push_bind(job.id);
        }
        ids.push_unseparated(")");
        update.build().execute(&mut *tx).await?;
        tx.commit().await?;
        progress.add(jobs.len() as u64);
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let task = Task::from_args();
    let db = own::fill(&task).await;
    // As many connections as the product's own pools have, and on SQLite the same settings.
    let mut workers = tokio::task::JoinSet::new();
    let progress = if task.url.starts_with("sqlite") {
        let options: SqliteConnectOptions = task.url.parse().expect("a URL");
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(5).connect_with(options).await.expect("a file");
        let progress = Arc::new(Progress::until(task.rows));
        for _ in 0..task.workers {
            workers.spawn(on_sqlite(pool.clone(), Arc::clone(&progress)));
        }
        progress
    } else {
        let pool = PgPoolOptions::new().max_connections(10).connect(&task.url).await.expect("a server");
        let progress = Arc::new(Progress::until(task.rows));
        for _ in 0..task.workers {
            workers.spawn(on_postgres(pool.clone(), Arc::clone(&progress)));
        }
        progress
    };
    progress.report().await;
    while let Some(worker) = workers.join_next().await {
        worker.expect("no panic").expect("no error");
    }
    own::check(&db).await;
}
