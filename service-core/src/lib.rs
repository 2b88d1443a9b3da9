#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]
//!
//! ## Reading the code
//!
//! Start at `runtime/supervisor.rs`: the loop that runs one service. `CONTRIBUTING.md` lists the layers of the crate.
// What only some features use is dead code without them. Code that nothing uses is found with all features.
#![cfg_attr(not(feature = "full"), allow(dead_code, reason = "without a feature, what only it uses"))]

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cluster")]
mod cluster;
mod config;
#[cfg(feature = "database")]
pub mod database;
mod humanize;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod observe;
mod panic;
mod race;
mod registry;
mod rfc3339;
mod runtime;
mod schedule;
mod service;
mod suggest;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "cluster")]
pub use cluster::{Replica, ReplicaService};
pub use config::ServiceDescriptor;
pub use config::options::{Exhausted, ServiceOptions, ServiceScope};
pub use config::{ConfigError, ConfigErrors, Layer, Setting, SettingValue};
#[cfg(feature = "database")]
pub use database::{Transaction, WorkItem};
pub use observe::explain::{ExplainedLease, ExplainedOption, ExplainedReplica, ExplainedSetting, Explanation};
pub use observe::health::{HealthStatus, RegistryHealth, ServiceHealth};
pub use registry::builder::{BuildError, RegistryBuilder};
pub use registry::handle::ServiceHandle;
pub use registry::register::{Register, Registering};
pub use registry::reload::ReloadError;
pub use registry::run::{run, run_until};
pub use registry::service_registry::ServiceRegistry;
pub use runtime::context::Context;
pub use runtime::events::{ServiceEvent, ServiceEventKind};
pub use runtime::instance_fn::InstanceFn;
pub use runtime::lifecycle::IntoService;
pub use runtime::lifecycle::Service;
pub use runtime::metrics::{MetricValue, Metrics};
pub use runtime::requests::StateError;
pub use schedule::{CatchUp, OnEnd, Readiness};
#[cfg(feature = "database")]
pub use sea_orm;
pub use service::error::{Error, Result};
pub use service::failure::{Failure, FailureKind, Recovery};
pub use service::literal::Literal;
pub use service::outcome::{IntoOutcome, Outcome, RunReport};
pub use service::secret::Secret;
pub use service::state::ServiceState;
#[doc = include_str!("service/attribute.md")]
pub use service_macros::service;
#[cfg(feature = "testing")]
pub use testing::TestBed;

/// The items that generated code names, so that users need no other crate in their `Cargo.toml`. Not for direct use.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "database")]
    pub use crate::database::__private as database;
    pub use std::boxed::Box as Boxed;
    pub use std::option::Option::{self, None, Some};

    pub use inventory;

    pub use crate::__place as place;
    pub use crate::config::ServiceDescriptor;
    pub use crate::registry::expect::ExpectedServices;
    pub use crate::runtime::context::Context;
    pub use crate::runtime::lifecycle::{BoxFuture, Build, Cleanup, Discovered, Lifecycle, Service, Shape};
    pub use crate::runtime::macro_support::{
        ByDefault, Config, IntoCleaned, IntoInstance, IntoRecovery, IntoRunEnd, POSSIBLE_SETTINGS, PerhapsDefault,
        Probe, UNDECLARED_SETTINGS, descriptor, instance,
    };
    pub use crate::service::error::Result;
    pub use crate::service::failure::{Failure, Recovery};
    pub use crate::service::literal::Literal;
    pub use crate::service::outcome::{IntoOutcome, Outcome};
}

/// The items that a file with a service usually needs.
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
