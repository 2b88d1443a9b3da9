//! The product: services that claim a hundred rows a run.

use std::sync::Arc;

use measure::{Progress, Task};
use own::job;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use service_core::database::Transaction;
use service_core::prelude::*;

struct Worker {
    progress: Arc<Progress>,
}

#[service(interval = 3600, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        if self.progress.is_reached() {
            return Ok(Outcome::idle());
        }
        let mut batch = cx.claim::<job::Entity>(100).await?;
        while let Some(item) = batch.next().await? {
            let done = insert(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        let outcome = batch.commit().await?;
        self.progress.add(outcome.items_processed());
        Ok(outcome)
    }
}

async fn insert(tx: &Transaction, job: i64) -> Result<()> {
    let backend = tx.get_database_backend();
    let sql = if backend == DbBackend::Postgres { measure::INSERT } else { "INSERT INTO effect (job) VALUES (?)" };
    tx.execute_raw(Statement::from_sql_and_values(backend, sql, [job.into()])).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let task = Task::from_args();
    let db = own::fill(&task).await;
    let progress = Arc::new(Progress::until(task.rows));
    let mut builder = ServiceRegistry::builder().database(db.clone());
    for worker in 0..task.workers {
        builder = builder.service(&format!("worker_{worker}"), Worker { progress: Arc::clone(&progress) });
    }
    let services = builder.start_all().await?;
    progress.report().await;
    services.shutdown().await?;
    own::check(&db).await;
    Ok(())
}
