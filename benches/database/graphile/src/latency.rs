//! The peer graphile_worker as it stands, idle: how long a job waits until its task begins.

use std::sync::Arc;

use graphile_worker::{IntoTaskHandlerResult, JobSpec, TaskHandler, WorkerContext, WorkerOptions};
use measure::{Latencies, Task};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

#[derive(Deserialize, Serialize)]
struct Note {
    job: i64,
}

#[derive(Clone)]
struct Shared(Arc<Latencies>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl TaskHandler for Note {
    const IDENTIFIER: &'static str = "note";

    async fn run(self, cx: WorkerContext) -> impl IntoTaskHandlerResult {
        cx.get_ext::<Shared>().expect("the extension").0.started(self.job);
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let task = Task::from_args();
    let pool = PgPoolOptions::new().max_connections(task.connections()).connect(&task.url).await?;
    let latencies = Arc::new(Latencies::of(task.rows));
    let options = WorkerOptions::default().pg_pool(pool).concurrency(task.workers).define_job::<Note>();
    let worker = options.add_extension(Shared(Arc::clone(&latencies))).init().await?;
    let jobs = worker.create_utils();
    tokio::spawn(async move { worker.run().await });
    latencies.measure(async |job| jobs.add_job(Note { job }, JobSpec::default()).await.map(drop)).await;
    latencies.report();
    Ok(())
}
