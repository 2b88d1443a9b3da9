//! The peer tokio-cron-scheduler: one scheduler for all jobs. It looks twice a second for those that are due, by the
//! wall clock.

use std::time::Duration;

use tokio_cron_scheduler::{Job, JobScheduler};
use yardstick::Contender;

struct Jobs(JobScheduler);

impl Contender for Jobs {
    const FOLLOWS_TOKIO: bool = false;

    async fn start(count: usize, every: Duration) -> Self {
        let scheduler = JobScheduler::new().await.expect("a scheduler");
        for index in 0..count {
            let job = Job::new_repeated_async(every, move |_, _| Box::pin(async move { yardstick::tick(index) }));
            scheduler.add(job.expect("a job")).await.expect("it is added");
        }
        scheduler.start().await.expect("starts");
        Self(scheduler)
    }

    async fn stop(mut self) {
        self.0.shutdown().await.expect("it stops");
    }
}

fn main() {
    yardstick::main::<Jobs>();
}
