//! Services of a crate that denies every warning, and clippy's pedantic and nursery lints too.

#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    missing_copy_implementations,
    unreachable_pub,
    single_use_lifetimes,
    unused_qualifications,
    unused_results,
    let_underscore_drop,
    trivial_casts,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]

use std::time::Duration;

use service_core::prelude::*;

/// Settings of [`Full`].
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Settings {
    /// Rows a run.
    pub batch_size: u64,
    /// Where they come from.
    pub queue: String,
}

/// All four methods.
#[derive(Debug)]
pub struct Full {
    settings: Settings,
    runs: u64,
}

#[service(interval = 30, max_failures = 5)]
impl Full {
    async fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        tokio::task::yield_now().await;
        let _ = cx;
        Ok(Self { settings, runs: 0 })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let _ = cx;
        self.runs += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Outcome::processed(self.settings.batch_size))
    }

    #[allow(clippy::missing_const_for_fn, reason = "the runtime calls it at run time")]
    fn on_failure(&mut self, failure: &Failure) -> Recovery {
        self.runs = 0;
        failure.recovery()
    }

    async fn cleanup(&mut self, cx: &Context) -> Result<()> {
        let _ = cx;
        self.runs = 0;
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Blocking, and nothing is returned.
#[derive(Debug, Default)]
pub struct Blocking {
    names: Vec<String>,
}

#[service(delay = "1m", depends_on = [Full, tick])]
impl Blocking {
    fn update(&mut self) {
        self.names.push(String::from("run"));
    }

    fn cleanup(&mut self) -> Result<(), String> {
        self.names.pop().map(drop).ok_or_else(|| String::from("never run"))
    }
}

/// Handed over ready-made.
#[derive(Debug)]
pub struct ReadyMade {
    names: Vec<String>,
}

impl ReadyMade {
    /// One of these names.
    #[must_use]
    pub const fn new(names: Vec<String>) -> Self {
        Self { names }
    }
}

#[service(discover = false)]
impl ReadyMade {
    async fn update(&mut self) {
        tokio::task::yield_now().await;
        self.names.clear();
    }
}

/// Runs and does nothing.
#[service(interval = 5)]
pub async fn tick() {
    tokio::task::yield_now().await;
}

#[service]
async fn private_tick(cx: &Context) -> Result<(), std::io::Error> {
    let _ = cx;
    tokio::task::yield_now().await;
    Ok(())
}
