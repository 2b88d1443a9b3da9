//! The peer underway, as it stands: it takes one job at a time, and the insert is in the transaction that completes the
//! job.

use std::sync::Arc;

use measure::Progress;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Postgres, Transaction};
use underway::{Queue, Task, Worker, task};

#[derive(Clone)]
struct Insert {
    progress: Arc<Progress>,
}

impl Task for Insert {
    type Input = i64;
    type Output = ();

    async fn execute(&self, mut tx: Transaction<'_, Postgres>, job: i64) -> task::Result<()> {
        sqlx::query(measure::INSERT).bind(job).execute(&mut *tx).await?;
        tx.commit().await?;
        self.progress.add(1);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bench = measure::Task::from_args();
    let pool = PgPoolOptions::new().max_connections(10).connect(&bench.url).await?;
    sqlx::raw_sql(measure::EFFECT).execute(&pool).await?;
    underway::run_migrations(&pool).await?;
    let queue = Queue::builder().name("bench").pool(pool.clone()).build().await?;
    let jobs: Vec<i64> = (1..=i64::try_from(bench.waiting)?).collect();
    let filler = Insert { progress: Arc::new(Progress::until(0)) };
    queue.enqueue_multi(&pool, &filler, &jobs).await?;
    sqlx::raw_sql("VACUUM ANALYZE underway.task").execute(&pool).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&pool).await?;

    let progress = Arc::new(Progress::until(bench.rows));
    let queue = Arc::new(queue);
    for _ in 0..bench.workers {
        let mut worker = Worker::new(Arc::clone(&queue), Insert { progress: Arc::clone(&progress) });
        worker.set_concurrency_limit(1);
        tokio::spawn(async move { worker.run().await });
    }
    progress.report().await;
    Ok(())
}
