//! The product, idle: how long a row waits until its run begins. Services have no schedule, so only the trigger of the
//! table wakes them.

use std::sync::Arc;
use std::time::Instant;

use measure::{Latencies, Task};
use own::job;
use sea_orm::ConnectionTrait;
use service_core::database::create_wake_trigger;
use service_core::prelude::*;

struct Worker(Arc<Latencies>);

#[service(on_demand = true, wake_on = ["jobs"], discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let run = Instant::now();
        cx.claim::<job::Entity>(10).for_each(async |item| self.0.started_in(item.model().id, run)).await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let task = Task { waiting: 0, ..Task::from_args() };
    let db = own::fill(&task).await;
    create_wake_trigger::<job::Entity>(&db, "jobs").await?;
    let latencies = Arc::new(Latencies::of(task.rows));
    let mut options = sea_orm::ConnectOptions::new(task.url.clone());
    options.max_connections(task.connections());
    let mut builder = ServiceRegistry::builder().database_with(options);
    for number in 0..task.workers {
        builder = builder.service(format!("worker_{number}"), Worker(Arc::clone(&latencies)));
    }
    let services = builder.start_all().await?;
    let insert = async |id: i64| {
        let sql = format!(
            "INSERT INTO job (id, payload, status, attempts, updated_at) VALUES ({id}, 'job', 'pending', 0, now())"
        );
        db.execute_unprepared(&sql).await.map(drop)
    };
    latencies.measure(insert).await;
    latencies.report();
    services.shutdown().await
}
