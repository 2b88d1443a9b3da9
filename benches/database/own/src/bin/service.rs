//! The product: services that claim a hundred rows a run.

use std::sync::Arc;

use measure::{Progress, Task};
use own::{insert, job};
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
        let claim = cx.claim::<job::Entity>(100);
        let outcome = claim.for_each(async |item| insert(item.tx(), item.model().id).await).await?;
        self.progress.add(outcome.items_processed());
        Ok(outcome)
    }
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
