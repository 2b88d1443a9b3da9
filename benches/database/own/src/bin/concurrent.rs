//! The product with rows that take their time: one service that processes several at the same time.

use std::sync::Arc;

use measure::{Progress, Task};
use own::{insert, job};
use sea_orm::ConnectOptions;
use service_core::prelude::*;

struct Worker {
    task: Task,
    progress: Arc<Progress>,
    /// The insert commits by itself, as those of the peers do.
    alone: bool,
}

#[service(interval = 3600, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        if self.progress.is_reached() {
            return Ok(Outcome::idle());
        }
        let claim = cx.claim_each::<job::Entity>(self.task.batch() as u64).concurrency(self.task.workers);
        let done = claim.for_each(async |item| -> Result<()> {
            self.task.work().await;
            match self.alone {
                true => insert(cx.db()?, item.model().id).await?,
                false => insert(item.tx(), item.model().id).await?,
            }
            self.progress.add(1);
            Ok(())
        });
        done.await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let task = Task::from_args();
    let db = own::fill(&task).await;
    let progress = Arc::new(Progress::until(task.rows));
    let mut options = ConnectOptions::new(task.url.clone());
    options.max_connections(task.connections());
    let alone = std::env::var_os("INSERT_ALONE").is_some();
    let worker = Worker { task: task.clone(), progress: Arc::clone(&progress), alone };
    let builder = ServiceRegistry::builder().database_with(options).service("worker", worker);
    let services = builder.start_all().await?;
    progress.report().await;
    services.shutdown().await?;
    own::check(&db).await;
    Ok(())
}
