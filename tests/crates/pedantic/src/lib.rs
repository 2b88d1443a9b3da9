//! Services of a crate that denies every warning, clippy's pedantic and nursery lints and a choice of the restrictions.

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
    clippy::nursery,
    clippy::absolute_paths,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::default_numeric_fallback,
    clippy::exhaustive_enums,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::map_err_ignore,
    clippy::min_ident_chars,
    clippy::module_name_repetitions,
    clippy::panic,
    clippy::partial_pub_fields,
    clippy::pattern_type_mismatch,
    clippy::redundant_type_annotations,
    clippy::renamed_function_params,
    clippy::same_name_method,
    clippy::shadow_reuse,
    clippy::shadow_same,
    clippy::shadow_unrelated,
    clippy::str_to_string,
    clippy::unneeded_field_pattern,
    clippy::unwrap_in_result,
    clippy::unwrap_used,
    clippy::wildcard_imports
)]

use std::io;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use service_core::prelude::{Context, Failure, Outcome, Recovery, Result, service};

/// Settings of [`Full`].
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Settings {
    /// How many rows a run processes.
    pub batch_size: u64,
    /// The queue that they come from.
    pub queue: String,
}

/// Has all four methods.
#[derive(Debug)]
pub struct Full {
    settings: Settings,
    runs: u64,
}

#[service(interval = 30, max_failures = 5)]
impl Full {
    async fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        yield_now().await;
        let _ = cx;
        Ok(Self { settings, runs: 0 })
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let _ = cx;
        self.runs += 1;
        sleep(Duration::from_millis(1)).await;
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
        yield_now().await;
        Ok(())
    }
}

/// Its methods block; `update` returns nothing.
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

/// Is registered as a ready-made instance.
#[derive(Debug)]
pub struct ReadyMade {
    names: Vec<String>,
}

impl ReadyMade {
    /// Creates one with these names.
    #[must_use]
    pub const fn new(names: Vec<String>) -> Self {
        Self { names }
    }
}

#[service(discover = false)]
impl ReadyMade {
    async fn update(&mut self) {
        yield_now().await;
        self.names.clear();
    }
}

/// Runs and does nothing.
#[service(interval = 5)]
pub async fn tick() {
    yield_now().await;
}

#[service]
async fn private_tick(cx: &Context) -> Result<(), io::Error> {
    let _ = cx;
    yield_now().await;
    Ok(())
}

/// A module with the name of its function.
pub mod outbox {
    use service_core::prelude::service;
    use tokio::task::yield_now;

    /// Cleans the outbox.
    #[service]
    pub async fn outbox() {
        yield_now().await;
    }
}

/// The service of the first edition.
#[deprecated(note = "use `Full`")]
#[derive(Debug, Default)]
pub struct Old {
    names: Vec<String>,
}

#[expect(deprecated, clippy::unused_async, reason = "until the second edition")]
#[service(depends_on = [outbox::outbox], discover = false)]
impl Old {
    async fn update(&mut self) {
        self.names.clear();
    }
}
