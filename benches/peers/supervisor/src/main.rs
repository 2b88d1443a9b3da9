//! The peer task-supervisor: it restarts tasks; the loop inside, and its interval, are the application's.

use std::time::Duration;

use task_supervisor::{CancellationToken, SupervisedTask, SupervisorBuilder, SupervisorHandle, TaskResult};
use yardstick::Contender;

#[derive(Clone)]
struct Ticking {
    index: usize,
    every: Duration,
}

impl SupervisedTask for Ticking {
    async fn run(self, token: CancellationToken) -> TaskResult {
        let mut interval = tokio::time::interval(self.every);
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                _ = interval.tick() => yardstick::tick(self.index),
            }
        }
    }
}

struct Tasks(SupervisorHandle);

impl Contender for Tasks {
    async fn start(count: usize, every: Duration) -> Self {
        let mut builder = SupervisorBuilder::new();
        for index in 0..count {
            builder = builder.with_task(&format!("task_{index}"), Ticking { index, every });
        }
        Self(builder.spawn())
    }

    async fn stop(self) {
        self.0.shutdown().await.expect("all stop");
    }
}

fn main() {
    yardstick::main::<Tasks>();
}
