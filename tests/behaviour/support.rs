//! A service that follows a script of the test, and a log of what it did.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_core::prelude::*;
use tokio::time::Instant;

/// A log of events, each with the second at which it happened.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    start: Instant,
    lines: Arc<Mutex<Vec<(f64, String)>>>,
}

impl Default for Log {
    fn default() -> Self {
        Self { start: Instant::now(), lines: Arc::default() }
    }
}

impl Log {
    pub(crate) fn push(&self, what: impl Into<String>) {
        let at = (self.start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        self.lines.lock().unwrap().push((at, what.into()));
    }

    /// The time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn lines(&self) -> Vec<(f64, String)> {
        self.lines.lock().unwrap().clone()
    }

    /// The seconds at which this happened.
    pub(crate) fn times(&self, what: &str) -> Vec<f64> {
        self.lines().into_iter().filter(|(_, line)| line == what).map(|(at, _)| at).collect()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.times(what).len()
    }
}

/// What a scripted service does in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Succeed,
    Take(f64),
    Fail,
    Fatal,
    RetryAfter(f64),
    Panic,
    Hang,
    Again,
}

/// Follows its script. After the end of the script its runs succeed.
pub(crate) struct Scripted {
    pub(crate) log: Log,
    pub(crate) script: std::vec::IntoIter<Step>,
    pub(crate) recovery: Option<fn(&Failure) -> Recovery>,
    pub(crate) cleanup: Step,
}

impl Scripted {
    pub(crate) fn new(log: &Log, script: &[Step]) -> Self {
        let script = Vec::from(script).into_iter();
        Self { log: log.clone(), script, recovery: None, cleanup: Step::Succeed }
    }
}

/// Logs every instance that is built as `built`, and returns its number, from 1.
pub(crate) fn built<S, F: Fn(&Log, usize) -> S>(log: &Log, build: F) -> impl Fn() -> S + use<S, F> {
    let log = log.clone();
    move || {
        log.push("built");
        build(&log, log.count("built"))
    }
}

#[service(interval = 60, discover = false)]
impl Scripted {
    async fn update(&mut self) -> Result<Outcome> {
        self.log.push("run");
        act(self.script.next().unwrap_or(Step::Succeed)).await
    }

    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        self.log.push(format!("failure {} {:?}", failure.count(), failure.kind()));
        self.recovery.map_or_else(|| failure.recovery(), |decide| decide(failure))
    }

    async fn cleanup(&mut self) -> Result<()> {
        self.log.push("cleanup");
        act(self.cleanup).await.map(|_| ())
    }
}

pub(crate) async fn act(step: Step) -> Result<Outcome> {
    match step {
        Step::Succeed => {}
        Step::Take(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
        Step::Fail => return Err(Error::msg("it failed")),
        Step::Fatal => return Err(Error::fatal("it is hopeless")),
        Step::RetryAfter(seconds) => return Err(Error::retry_after(Duration::from_secs_f64(seconds), "slow down")),
        Step::Panic => panic!("it panicked"),
        Step::Hang => std::future::pending().await,
        Step::Again => return Ok(Outcome::processed(1).again()),
    }
    Ok(Outcome::processed(1))
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
