//! Services with `scope = "cluster"`: on one replica at a time.

mod continuity;
mod failures;
mod fencing;
mod fleet;
#[allow(dead_code, reason = "the worker runs it")]
mod ledger;
mod real;
mod requests;
mod sharing;
mod simulation;
mod takeover;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_core::prelude::*;
use service_core::testing::TestBed;
use tokio::time::Instant;

use crate::bed::Bed;

impl Bed {
    async fn other(&self) -> TestBed {
        self.bed.replica().await
    }

    async fn run_for(&self, seconds: f64) {
        self.bed.run_for(Duration::from_secs_f64(seconds)).await;
    }
}

/// What happened on which replica, and when.
#[derive(Clone)]
pub(super) struct Log {
    began: Instant,
    lines: Arc<Mutex<Vec<(f64, String)>>>,
}

impl Log {
    fn new() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    fn add(&self, line: impl Into<String>) {
        let at = (self.began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        self.lines.lock().unwrap().push((at, line.into()));
    }

    /// The moments of these lines, in seconds.
    fn times(&self, line: &str) -> Vec<f64> {
        self.lines.lock().unwrap().iter().filter(|(_, known)| known == line).map(|(at, _)| *at).collect()
    }

    fn all(&self) -> Vec<(f64, String)> {
        self.lines.lock().unwrap().clone()
    }
}

/// Notes what happens on one replica: `a runs`, `a is dropped`, `a is told`, `a cleans up`.
pub(super) struct Worker {
    name: &'static str,
    log: Log,
    /// How long a run takes.
    works: Duration,
}

#[service(interval = 10, scope = "cluster", lease = 30, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        struct Dropped(String, Log);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.1.add(&*self.0);
            }
        }
        let (name, log) = (self.name, self.log.clone());
        log.add(format!("{name} runs"));
        cx.on_stop(move || log.add(format!("{name} is told")));
        let dropped = Dropped(format!("{name} is dropped"), self.log.clone());
        tokio::time::sleep(self.works).await;
        std::mem::forget(dropped);
        Ok(())
    }

    async fn cleanup(&mut self) {
        self.log.add(format!("{} cleans up", self.name));
    }
}

/// Starts the worker on a replica.
async fn start(bed: &TestBed, name: &'static str, log: &Log, works: f64) -> ServiceHandle {
    let (log, works) = (log.clone(), Duration::from_secs_f64(works));
    bed.start_fn(move || Worker { name, log: log.clone(), works }).await
}
