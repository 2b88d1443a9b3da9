//! The peer apalis-cron: a worker for each schedule, by the wall clock.

use std::str::FromStr;
use std::time::Duration;

use apalis::prelude::*;
use apalis_cron::{CronScheduler, Tick};
use cron::Schedule;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use yardstick::Contender;

async fn tick(_tick: Tick, index: Data<usize>) {
    yardstick::tick(*index);
}

struct Workers {
    token: CancellationToken,
    tasks: JoinSet<()>,
}

impl Contender for Workers {
    const FOLLOWS_TOKIO: bool = false;

    async fn start(count: usize, every: Duration) -> Self {
        let schedule = if every == Duration::from_secs(1) { "* * * * * *" } else { "@yearly" };
        let schedule = Schedule::from_str(schedule).expect("a schedule");
        let (token, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for index in 0..count {
            let backend = CronScheduler::new(schedule.clone());
            let worker = WorkerBuilder::new(format!("worker_{index}")).backend(backend).data(index).build(tick);
            let token = token.clone();
            tasks.spawn(async move {
                let stop = async move {
                    token.cancelled().await;
                    Ok::<(), std::io::Error>(())
                };
                worker.run_until(stop).await.expect("it runs");
            });
        }
        Self { token, tasks }
    }

    async fn stop(self) {
        self.token.cancel();
        self.tasks.join_all().await;
    }
}

fn main() {
    yardstick::main::<Workers>();
}
