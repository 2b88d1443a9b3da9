//! Background services inside a program.
//!
//! To read the code, start at `supervisor.rs`: the loop that runs one service.

mod builder;
mod caught;
mod clock;
mod config;
mod context;
mod control;
mod cron;
#[cfg(feature = "database")]
pub mod database;
mod desk;
mod entry;
mod error;
mod event;
mod expected;
mod failure;
mod glue;
mod handle;
mod health;
mod hub;
mod metrics;
mod options;
mod order;
mod outcome;
mod overview;
mod policy;
mod rate;
mod registry;
mod schedule;
mod secret;
mod service;
mod signal;
mod state;
mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;

pub use builder::{BuildError, RegistryBuilder};
pub use config::{ConfigError, ConfigErrors, Layer, Setting, SettingValue};
pub use context::Context;
pub use control::StateError;
pub use error::{Error, Result};
pub use event::{ServiceEvent, ServiceEventKind};
pub use failure::{Failure, FailureKind, Recovery};
pub use handle::ServiceHandle;
pub use health::{HealthStatus, RegistryHealth, ServiceHealth};
pub use metrics::{MetricValue, Metrics};
pub use options::{CatchUp, CronSchedule, Options, RateLimit, Restart, Schedule, ServiceOptions};
pub use outcome::{IntoOutcome, Outcome, RunReport};
pub use registry::ServiceRegistry;
pub use secret::Secret;
pub use service::{Literal, Service, ServiceDescriptor};
pub use service_macros::service;
pub use state::ServiceState;
#[cfg(feature = "testing")]
pub use testing::TestBed;

/// What generated code names, so that users need no other crate in their `Cargo.toml`. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "database")]
    pub use crate::database::__private as database;
    pub use std::boxed::Box as Boxed;
    pub use std::option::Option::{None, Some};

    pub use inventory;

    pub use crate::__place as place;
    pub use crate::context::Context;
    pub use crate::error::Result;
    pub use crate::expected::ExpectedServices;
    pub use crate::failure::{Failure, Recovery};
    pub use crate::glue::{
        ByDefault, Config, IntoCleaned, IntoInstance, IntoRecovery, PerhapsDefault, Probe, descriptor, fields, instance,
    };
    pub use crate::outcome::{IntoOutcome, Outcome};
    pub use crate::service::{
        BoxFuture, Build, Cleanup, Discovered, Lifecycle, Literal, Service, ServiceDescriptor, Shape,
    };
}

/// What a service's file usually needs.
pub mod prelude {
    #[cfg(feature = "testing")]
    pub use crate::testing::TestBed;
    pub use crate::{
        Context, Error, Failure, FailureKind, IntoOutcome, Outcome, Recovery, Result, Service, ServiceHandle,
        ServiceOptions, ServiceRegistry, ServiceState, expect_services, service,
    };
}
