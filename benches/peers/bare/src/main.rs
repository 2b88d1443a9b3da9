//! The loop that everyone writes: a task, an interval, and a token that ends it.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use yardstick::Contender;

struct Loops {
    token: CancellationToken,
    tasks: JoinSet<()>,
}

async fn run(index: usize, every: Duration, token: CancellationToken) {
    let mut interval = tokio::time::interval(every);
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = interval.tick() => yardstick::tick(index),
        }
    }
}

impl Contender for Loops {
    async fn start(count: usize, every: Duration) -> Self {
        let token = CancellationToken::new();
        let tasks = (0..count).map(|index| run(index, every, token.clone())).collect();
        Self { token, tasks }
    }

    async fn stop(self) {
        self.token.cancel();
        self.tasks.join_all().await;
    }
}

fn main() {
    yardstick::main::<Loops>();
}
