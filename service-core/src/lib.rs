#![cfg_attr(not(doctest), doc = include_str!("../../README.md"))]
//!
//! ## Reading the code
//!
//! Start at `supervisor.rs`: the loop that runs one service. `driver.rs` wakes it when its time has come.

mod config;
#[cfg(feature = "database")]
pub mod database;
mod humanize;
mod log;
mod observe;
mod panic;
mod registry;
mod runtime;
mod schedule;
mod service;
mod suggest;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::ServiceDescriptor;
pub use config::options::ServiceOptions;
pub use config::{ConfigError, ConfigErrors, Layer, Setting, SettingValue};
#[cfg(feature = "database")]
pub use database::{Transaction, WorkItem};
pub use observe::explain::{ExplainedOption, ExplainedSetting, Explanation};
pub use observe::health::{HealthStatus, RegistryHealth, ServiceHealth};
pub use registry::builder::{BuildError, RegistryBuilder};
pub use registry::handle::ServiceHandle;
pub use registry::register::{Register, Registering};
pub use registry::run::{run, run_until};
pub use registry::service_registry::ServiceRegistry;
pub use runtime::context::Context;
pub use runtime::events::{ServiceEvent, ServiceEventKind};
pub use runtime::instance_fn::InstanceFn;
pub use runtime::lifecycle::IntoService;
pub use runtime::lifecycle::Service;
pub use runtime::metrics::{MetricValue, Metrics};
pub use runtime::requests::StateError;
pub use schedule::CatchUp;
/// Makes a type a service, or an `async fn` a stateless one.
///
/// It goes on an inherent impl or on a free `async fn`, which stays as it is and can be called as before. The service of
/// a function `clean_outbox` is the type `CleanOutboxService`, with the function's visibility. In the arguments, numbers
/// are seconds and strings carry a unit: `ms`, `s`, `m`, `h` or `d`.
///
/// ```
/// use service_core::prelude::*;
///
/// #[derive(Default)]
/// struct EmailSender {
///     sent: u64,
/// }
///
/// #[service(interval = 30, max_failures = 5, timeout = "2m")]
/// impl EmailSender {
///     async fn update(&mut self, cx: &Context) -> Result<Outcome> {
///         self.sent += 1;
///         Ok(Outcome::processed(1))
///     }
/// }
///
/// #[service(interval = "1h", depends_on = [EmailSender])]
/// async fn clean_outbox(cx: &Context) -> Result<Outcome> {
///     Ok(Outcome::idle())
/// }
/// # assert_eq!((EmailSender::ID, CleanOutboxService::ID), ("email_sender", "clean_outbox"));
/// ```
///
/// # Keys
///
/// | key | default | meaning |
/// |---|---|---|
/// | `name` | the name in snake_case | the id: `[a-z][a-z0-9_]*` without `__`, not `defaults`, unique in the binary |
/// | `interval` | `60` | time from start to start on a fixed grid; missed points are skipped |
/// | `delay` | – | time from end to start, instead of `interval` |
/// | `cron`, `timezone` | –, `"UTC"` | a cron schedule instead: 5 fields, or 6 with seconds first |
/// | `catch_up` | `"none"` | which fires are made up that were missed while the process was down: `none`, `latest` or `all` |
/// | `initial_delay` | `0` | wait before the first run |
/// | `jitter` | `0` | up to this much is added at random to each scheduled wait |
/// | `max_failures` | `3` | consecutive failures that are retried; after one more the service is `Failed` |
/// | `retry_delay` | `5` | wait after a failure, before the retry |
/// | `retry_backoff` | `1.0` | factor on that wait for each further consecutive failure |
/// | `max_retry_delay` | `300` | maximum of that wait |
/// | `timeout` | none | a longer run is cancelled and counts as a failure |
/// | `drain_timeout` | `30` | on stop, how long the current run may continue before it is aborted |
/// | `restart` | `"never"` | `on_failure`: after `Failed`, a fresh instance is started |
/// | `restart_delay` | `60` | wait before such a restart |
/// | `max_restarts` | `5` | restarts within `restart_window` before the service is `Failed` permanently |
/// | `restart_window` | `600` | the time in which restarts are counted |
/// | `critical` | `false` | `true`: when the service is `Failed` permanently, the whole registry shuts down |
/// | `depends_on` | `[]` | services, as types, functions or ids, that are started before this one and stopped after it; the type of a function has to be in scope |
/// | `rate_limit` | none | `"10/s"`, `"600/m"`, `"1000/h"`: [`Context::permit`] waits for its turn |
/// | `enabled` | `true` | `false`: registered, but not started |
/// | `discover` | `true` | `false`: registered only by hand, which a generic impl (`impl<M: Mailer> Sender<M>`) has to be |
/// | `scope` | `"process"` | `process`: the service runs in every process; `cluster` is not available yet |
/// | `crate` | `::service_core` | the path of this crate, where it is renamed or re-exported |
///
/// # Methods
///
/// Found by name in the impl; all others are the type's own. Only `update` has to be there.
///
/// | method | forms | role |
/// |---|---|---|
/// | `configure` | `[async] fn configure([cx: &Context[, config: T]])` to `Self` or `Result<Self, E>` | builds an instance, `T` being its settings; without it, `Default` does |
/// | `update` | `[async] fn update(&mut self[, cx: &Context])` to anything that is [`IntoOutcome`] | one run; a plain `fn` is blocking code and runs where blocking is allowed |
/// | `on_failure` | `fn on_failure(&mut self, failure: &Failure) -> Recovery` | decides what follows a failure |
/// | `cleanup` | `[async] fn cleanup(&mut self[, cx: &Context])` to `()` or `Result<(), E>` | runs once when an instance ends, however it ends |
///
/// Where a method needs `#[cfg]`, put it on the method: the service does without it, or has another of the name.
#[cfg(feature = "database")]
pub use sea_orm;
pub use service::error::{Error, Result};
pub use service::failure::{Failure, FailureKind, Recovery};
pub use service::literal::Literal;
pub use service::outcome::{IntoOutcome, Outcome, RunReport};
pub use service::secret::Secret;
pub use service::state::ServiceState;
pub use service_macros::service;
#[cfg(feature = "testing")]
pub use testing::TestBed;

/// What generated code names, so that users need no other crate in their `Cargo.toml`. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "database")]
    pub use crate::database::__private as database;
    pub use std::boxed::Box as Boxed;
    pub use std::option::Option::{self, None, Some};

    pub use inventory;

    pub use crate::__place as place;
    pub use crate::config::{ServiceDescriptor, settings};
    pub use crate::registry::expect::ExpectedServices;
    pub use crate::runtime::context::Context;
    pub use crate::runtime::lifecycle::{BoxFuture, Build, Cleanup, Discovered, Lifecycle, Service, Shape};
    pub use crate::runtime::macro_support::{
        ByDefault, Config, IntoCleaned, IntoInstance, IntoRecovery, PerhapsDefault, Probe, descriptor, instance,
    };
    pub use crate::service::error::Result;
    pub use crate::service::failure::{Failure, Recovery};
    pub use crate::service::literal::Literal;
    pub use crate::service::outcome::{IntoOutcome, Outcome};
}

/// What a service's file usually needs.
pub mod prelude {
    #[cfg(feature = "database")]
    pub use crate::database::{Transaction, WorkItem};
    #[cfg(feature = "testing")]
    pub use crate::testing::TestBed;
    pub use crate::{
        Context, Error, Failure, FailureKind, HealthStatus, IntoOutcome, Outcome, Recovery, Result, RunReport, Secret,
        Service, ServiceHandle, ServiceHealth, ServiceOptions, ServiceRegistry, ServiceState, expect_services, service,
    };
}
