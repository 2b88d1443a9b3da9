//! The same work, written by hand on sqlx with the same guarantees:
//!
//! - neither rows with a time nor rows without can starve the other, and no row is read that is not due;
//! - an item that fails or panics changes nothing but its own row, whose attempts are counted;
//! - all other items and their writes commit together, and only if each of their rows is completed;
//! - a worker that is dropped cuts no commit short, and a commit without an answer ends after a minute.
//!
//! With `FEWER_GUARANTEES=1` it is the shortest code on PostgreSQL with the same statements for each row: one condition
//! for both kinds of rows, an error that ends the worker, a plain commit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use measure::{Progress, Task};
use sqlx::postgres::{PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{Database, QueryBuilder, Sqlite, Transaction};

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

const COLUMNS: &str = "id, payload, status, error_message, attempts, due, updated_at";

/// Half of the rows are of the first kind, and half of the second; unused places go to the other half.
fn claim_on_postgres(dated_first: bool) -> String {
    let (dated, undated) = ("due <= $1", "due IS NULL");
    let (first, second) = if dated_first { (dated, undated) } else { (undated, dated) };
    let rows = |condition: &str, limit: &str| {
        format!(
            "SELECT {COLUMNS} FROM job WHERE status = 'pending' AND {condition} \
             ORDER BY due ASC NULLS FIRST, id LIMIT {limit} FOR UPDATE SKIP LOCKED"
        )
    };
    let (half, others) = (rows(first, "$2"), rows(second, "$3"));
    let rest = rows(&format!("{first} AND id NOT IN (SELECT id FROM half)"), "$3");
    format!(
        "WITH half AS MATERIALIZED ({half}), others AS MATERIALIZED (\
         SELECT * FROM ({others}) AS part LIMIT 101 - (SELECT count(*) FROM half)), rest AS MATERIALIZED (\
         SELECT * FROM ({rest}) AS part LIMIT 101 - (SELECT count(*) FROM half) - (SELECT count(*) FROM others)) \
         SELECT * FROM half UNION ALL SELECT * FROM others UNION ALL SELECT * FROM rest"
    )
}

/// How an item ends: `None`, or its error.
async fn attempt(item: impl Future<Output = sqlx::Result<()>>) -> Option<String> {
    match AssertUnwindSafe(item).catch_unwind().await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("panicked".to_owned()),
    }
}

/// Commits in a task of its own, so that nothing cuts the commit short.
async fn commit<DB: Database>(tx: Transaction<'static, DB>) -> sqlx::Result<()> {
    let commit = tokio::spawn(tokio::time::timeout(Duration::from_secs(60), tx.commit()));
    commit.await.expect("no panic").map_err(|_| sqlx::Error::protocol("the commit has no answer"))?
}

/// The status, the next time and the last error of a row after a failed attempt.
fn failed(job: &Job, now: DateTime<Utc>) -> (&'static str, DateTime<Utc>) {
    let status = if job.attempts + 1 >= 5 { "failed" } else { "pending" };
    (status, now + Duration::from_secs(10 << job.attempts.clamp(0, 8)))
}

async fn on_postgres(pool: PgPool, progress: Arc<Progress>) -> sqlx::Result<()> {
    let claims = [false, true].map(claim_on_postgres);
    let mut turn = 0;
    while !progress.is_reached() {
        let mut tx: Transaction<'static, Postgres> = pool.begin().await?;
        let claim = sqlx::AssertSqlSafe(claims[turn % 2].clone());
        let mut jobs: Vec<Job> =
            sqlx::query_as(claim).bind(Utc::now()).bind(50_i64).bind(101_i64).fetch_all(&mut *tx).await?;
        // One more shows whether there are more.
        jobs.truncate(100);
        turn += 1;
        let mut done: Vec<i64> = Vec::with_capacity(jobs.len());
        let mut is_open = false;
        for job in &jobs {
            sqlx::raw_sql(savepoint(!is_open)).execute(&mut *tx).await?;
            let insert = sqlx::query(measure::INSERT).bind(job.id).execute(&mut *tx);
            let error = attempt(async { insert.await.map(drop) }).await;
            is_open = error.is_none();
            let Some(error) = error else {
                done.push(job.id);
                continue;
            };
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT item; RELEASE SAVEPOINT item").execute(&mut *tx).await?;
            let now = Utc::now();
            let (status, due) = failed(job, now);
            sqlx::query(
                "UPDATE job SET status = $1, error_message = $2, attempts = attempts + 1, due = $3, updated_at = $4 \
                 WHERE id = $5",
            )
            .bind(status)
            .bind(error)
            .bind(due)
            .bind(now)
            .bind(job.id)
            .execute(&mut *tx)
            .await?;
        }
        let completed = sqlx::query(
            "UPDATE job SET status = 'completed', error_message = NULL, attempts = attempts + 1, updated_at = $1 \
             WHERE id = ANY($2)",
        )
        .bind(Utc::now())
        .bind(&done)
        .execute(&mut *tx)
        .await?;
        if completed.rows_affected() != done.len() as u64 {
            return Err(sqlx::Error::protocol("rows stay pending"));
        }
        commit(tx).await?;
        progress.add(done.len() as u64);
    }
    Ok(())
}

/// The same statements for each row, and nothing else.
async fn on_postgres_simply(pool: PgPool, progress: Arc<Progress>) -> sqlx::Result<()> {
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

/// A time as the index has it.
const INSTANT: &str = "CASE typeof(due) WHEN 'integer' THEN julianday(due, 'unixepoch') ELSE julianday(upper(due)) END";

/// The keys of both kinds in turns, each from the index, and their rows.
fn claim_on_sqlite() -> String {
    let keys = |condition: &str, order: &str, kind: u8| {
        format!(
            "SELECT id, row_number() OVER () AS turn, {kind} AS kind FROM (SELECT id FROM job INDEXED BY job_claim_idx \
             WHERE status = 'pending' AND {condition} ORDER BY {order}id LIMIT 101)"
        )
    };
    let undated = keys(&format!("unlikely({INSTANT} IS NULL)"), "", 0);
    let dated = keys(&format!("{INSTANT} <= julianday(?)"), &format!("{INSTANT}, "), 1);
    let columns = COLUMNS.replace("id,", "job.id,");
    format!(
        "SELECT {columns} FROM (SELECT * FROM ({undated} UNION ALL {dated}) ORDER BY turn, kind LIMIT 101) AS picked \
         CROSS JOIN job ON job.id = picked.id ORDER BY turn, kind"
    )
}

async fn on_sqlite(pool: SqlitePool, progress: Arc<Progress>) -> sqlx::Result<()> {
    let claim = claim_on_sqlite();
    while !progress.is_reached() {
        let mut tx = begin_patiently(&pool).await?;
        let claim = sqlx::AssertSqlSafe(claim.clone());
        let mut jobs: Vec<Job> = sqlx::query_as(claim).bind(Utc::now()).fetch_all(&mut *tx).await?;
        jobs.truncate(100);
        let mut done = Vec::with_capacity(jobs.len());
        let mut is_open = false;
        for job in &jobs {
            sqlx::raw_sql(savepoint(!is_open)).execute(&mut *tx).await?;
            let insert = sqlx::query("INSERT INTO effect (job) VALUES (?)").bind(job.id).execute(&mut *tx);
            let error = attempt(async { insert.await.map(drop) }).await;
            is_open = error.is_none();
            let Some(error) = error else {
                done.push(job.id);
                continue;
            };
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT item; RELEASE SAVEPOINT item").execute(&mut *tx).await?;
            let now = Utc::now();
            let (status, due) = failed(job, now);
            sqlx::query(
                "UPDATE job SET status = ?, error_message = ?, attempts = attempts + 1, due = ?, updated_at = ? WHERE id = ?",
            )
            .bind(status)
            .bind(error)
            .bind(due)
            .bind(now)
            .bind(job.id)
            .execute(&mut *tx)
            .await?;
        }
        let mut update = QueryBuilder::<Sqlite>::new(
            "UPDATE job SET status = 'completed', error_message = NULL, attempts = attempts + 1, updated_at = ",
        );
        update.push_bind(Utc::now()).push(" WHERE id IN (");
        let mut ids = update.separated(", ");
        for id in &done {
            ids.push_bind(id);
        }
        ids.push_unseparated(")");
        if update.build().execute(&mut *tx).await?.rows_affected() != done.len() as u64 {
            return Err(sqlx::Error::protocol("rows stay pending"));
        }
        commit(tx).await?;
        progress.add(done.len() as u64);
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
        let is_simple = std::env::var_os("FEWER_GUARANTEES").is_some();
        for _ in 0..task.workers {
            let (pool, progress) = (pool.clone(), Arc::clone(&progress));
            if is_simple {
                workers.spawn(on_postgres_simply(pool, progress));
            } else {
                workers.spawn(on_postgres(pool, progress));
            }
        }
        progress
    };
    progress.report().await;
    while let Some(worker) = workers.join_next().await {
        worker.expect("no panic").expect("no error");
    }
    own::check(&db).await;
}
