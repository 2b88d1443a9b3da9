//! The peer graphile_worker, as its guide sets up a "throughput-oriented worker": a local queue of a hundred jobs,
//! completions written together every 5 ms.
//!
//! One worker with `concurrency` as many jobs at a time. The insert commits by itself; a process killed before the
//! completion is written does it again.

use std::sync::Arc;
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use measure::Progress;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};

#[derive(Clone, Deserialize, Serialize)]
struct Insert {
    job: i64,
}

#[derive(Clone)]
struct Shared {
    task: measure::Task,
    pool: PgPool,
    progress: Arc<Progress>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl TaskHandler for Insert {
    const IDENTIFIER: &'static str = "insert";

    async fn run(self, cx: WorkerContext) -> impl IntoTaskHandlerResult {
        let shared = cx.get_ext::<Shared>().expect("the extension");
        shared.task.work().await;
        let inserted = sqlx::query(measure::INSERT).bind(self.job).execute(&shared.pool).await;
        shared.progress.add(1);
        inserted.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let task = measure::Task::from_args();
    let pool = PgPoolOptions::new().max_connections(task.connections()).connect(&task.url).await?;
    sqlx::raw_sql(measure::EFFECT).execute(&pool).await?;
    let options = || {
        WorkerOptions::default()
            .pg_pool(pool.clone())
            .concurrency(task.workers)
            .poll_interval(Duration::from_millis(500))
            .complete_job_batch_delay(Duration::from_millis(5))
            .fail_job_batch_delay(Duration::from_millis(5))
            .local_queue(LocalQueueConfig::default().with_size(task.batch()))
            .define_job::<Insert>()
    };
    let filler = options().init().await?;
    let spec = JobSpec::default();
    let jobs: Vec<_> = (1..=i64::try_from(task.waiting)?).map(|job| (Insert { job }, &spec)).collect();
    for jobs in jobs.chunks(5_000) {
        filler.create_utils().add_jobs::<Insert>(jobs).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE graphile_worker._private_jobs").execute(&pool).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&pool).await?;

    let progress = Arc::new(Progress::until(task.rows));
    let worker = options()
        .add_extension(Shared { task: task.clone(), pool: pool.clone(), progress: Arc::clone(&progress) })
        .init()
        .await?;
    tokio::spawn(async move { worker.run().await });
    progress.report().await;
    Ok(())
}
