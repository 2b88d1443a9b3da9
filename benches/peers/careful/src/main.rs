//! A loop written with care: a span for each run, a panic that fails one run only, counts and durations that others can
//! read, a pause, and waits after failures.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use yardstick::Contender;

/// What others see.
#[derive(Default)]
struct Status {
    runs: u64,
    failures: u32,
    panics: u64,
    last_started: Option<Instant>,
    last_duration: Duration,
    last_error: Option<String>,
}

struct Job {
    index: usize,
    name: Arc<str>,
    every: Duration,
    status: Arc<Mutex<Status>>,
    paused: watch::Receiver<bool>,
    token: CancellationToken,
}

impl Job {
    async fn work(&self) -> Result<(), String> {
        yardstick::tick(self.index);
        Ok(())
    }

    async fn run(mut self) {
        let mut interval = tokio::time::interval(self.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.token.cancelled() => break,
                _ = interval.tick() => {}
            }
            if *self.paused.borrow() && self.paused.wait_for(|paused| !paused).await.is_err() {
                break;
            }
            let (started, run) = {
                let mut status = self.status.lock().expect("no panic under the lock");
                status.runs += 1;
                status.last_started = Some(Instant::now());
                (Instant::now(), status.runs)
            };
            let span = tracing::info_span!("run", job = %self.name, run);
            let result = AssertUnwindSafe(self.work().instrument(span)).catch_unwind().await;
            let wait = {
                let mut status = self.status.lock().expect("no panic under the lock");
                status.last_duration = started.elapsed();
                let error = match result {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error),
                    Err(_) => {
                        status.panics += 1;
                        Some("panicked".to_owned())
                    }
                };
                match error {
                    None => {
                        status.failures = 0;
                        Duration::ZERO
                    }
                    Some(error) => {
                        tracing::warn!(job = %self.name, run, error, "run failed");
                        status.last_error = Some(error);
                        status.failures += 1;
                        Duration::from_secs(1 << status.failures.min(6))
                    }
                }
            };
            if !wait.is_zero() {
                tokio::select! {
                    () = self.token.cancelled() => break,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

struct Jobs {
    token: CancellationToken,
    tasks: JoinSet<()>,
    _status: Vec<(Arc<str>, Arc<Mutex<Status>>, watch::Sender<bool>)>,
}

impl Contender for Jobs {
    async fn start(count: usize, every: Duration) -> Self {
        let mut jobs = Self { token: CancellationToken::new(), tasks: JoinSet::new(), _status: Vec::new() };
        for index in 0..count {
            let (status, (pause, paused)) = (Arc::<Mutex<Status>>::default(), watch::channel(false));
            let name: Arc<str> = format!("job_{index}").into();
            jobs._status.push((name.clone(), status.clone(), pause));
            let token = jobs.token.clone();
            jobs.tasks.spawn(Job { index, name, every, status, paused, token }.run());
        }
        jobs
    }

    async fn stop(self) {
        self.token.cancel();
        self.tasks.join_all().await;
    }
}

fn main() {
    yardstick::main::<Jobs>();
}
