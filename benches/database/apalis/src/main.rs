//! The peer apalis-postgres, as its example `basic` sets it up: a hundred jobs a fetch, no lock of its own for each
//! job.
//!
//! A worker runs one job at a time, several workers share the queue; jobs that take their time are run by one worker,
//! as many at the same time as there would be workers. The insert commits by itself; completions are written later,
//! many together. A process killed in between does the insert again.

use std::sync::Arc;

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use measure::Progress;
use sqlx::postgres::{PgPool, PgPoolOptions};

async fn work(
    job: i64,
    task: Data<measure::Task>,
    pool: Data<PgPool>,
    progress: Data<Arc<Progress>>,
) -> Result<(), BoxDynError> {
    task.work().await;
    sqlx::query(measure::INSERT).bind(job).execute(&*pool).await?;
    progress.add(1);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let task = measure::Task::from_args();
    let pool = PgPoolOptions::new().max_connections(task.connections()).connect(&task.url).await?;
    sqlx::raw_sql(measure::EFFECT).execute(&pool).await?;
    PostgresStorage::setup(&pool).await?;
    let storage = || {
        let config = Config::default().queue("bench").batch_size(task.batch()).lock_tasks(false);
        PostgresStorage::<i64>::new(&pool).with_config(config)
    };
    let jobs: Vec<i64> = (1..=i64::try_from(task.waiting)?).collect();
    for jobs in jobs.chunks(5_000) {
        storage().push_bulk(jobs.to_vec()).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE apalis.jobs").execute(&pool).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&pool).await?;

    let progress = Arc::new(Progress::until(task.rows));
    let (workers, concurrency) = if task.item_time.is_zero() { (task.workers, 1) } else { (1, task.workers) };
    for number in 0..workers {
        let worker = WorkerBuilder::new(format!("worker-{number}"))
            .backend(storage())
            .data(task.clone())
            .data(pool.clone())
            .data(Arc::clone(&progress))
            .concurrency(concurrency)
            .build(work);
        tokio::spawn(worker.run());
    }
    progress.report().await;
    Ok(())
}
