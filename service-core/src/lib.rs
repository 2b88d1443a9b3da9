//! Background services inside a program.

#[allow(dead_code, unused_imports, reason = "the registry is its first user")]
mod config;
mod context;
mod error;
mod failure;
mod options;
mod outcome;
mod secret;
mod service;

pub use config::{ConfigError, ConfigErrors, Layer, Setting, SettingValue};
pub use context::Context;
pub use error::{Error, Result};
pub use failure::{Failure, FailureKind, Recovery};
pub use options::{CatchUp, CronSchedule, Options, RateLimit, Restart, Schedule, ServiceOptions};
pub use outcome::{IntoOutcome, Outcome, RunReport};
pub use secret::Secret;
pub use service::{Literal, Service, ServiceDescriptor};

/// What generated code names, so that users need no other crate in their `Cargo.toml`. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::config::fields;
    pub use crate::service::{BoxFuture, Build, Cleanup, Discovered, Lifecycle, Shape};
    pub use inventory;
}

/// What a service's file usually needs.
pub mod prelude {
    pub use crate::{Context, Error, Failure, FailureKind, IntoOutcome, Outcome, Recovery, Result, Service};
}
