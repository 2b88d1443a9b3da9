//! The peer apalis-postgres, as its example `basic` sets it up: a hundred jobs a fetch, no lock of its own for each job.
//!
//! A worker runs one job at a time, several workers share the queue. The insert commits by itself; completions are written
//! later, many together. A process killed in between does the insert again.

use std::sync::Arc;

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use measure::Progress;
use sqlx::postgres::{PgPool, PgPoolOptions};

async fn work(job: i64, pool: Data<PgPool>, progress: Data<Arc<Progress>>) -> Result<(), BoxDynError> {
    sqlx::query(measure::INSERT).bind(job).execute(&*pool).await?;
    progress.add(1);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let task = measure::Task::from_args();
    let pool = PgPoolOptions::new().max_connections(10).connect(&task.url).await?;
    sqlx::raw_sql(measure::EFFECT).execute(&pool).await?;
    PostgresStorage::setup(&pool).await?;
    let storage = || {
        let config = Config::default().queue("bench").batch_size(100).lock_tasks(false);
        PostgresStorage::<i64>::new(&pool).with_config(config)
    };
    let jobs: Vec<i64> = (1..=i64::try_from(task.waiting)?).collect();
    for jobs in jobs.chunks(5_000) {
        storage().push_bulk(jobs.to_vec()).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE apalis.jobs").execute(&pool).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&pool).await?;

    let progress = Arc::new(Progress::until(task.rows));
    for number in 0..task.workers {
        let worker = WorkerBuilder::new(format!("worker-{number}"))
            .backend(storage())
            .data(pool.clone())
            .data(Arc::clone(&progress))
            .concurrency(1)
            .build(work);
        tokio::spawn(worker.run());
    }
    progress.report().await;
    Ok(())
}
