//! Background services inside a program.

mod context;
#[cfg(feature = "database")]
pub mod database;
mod error;
mod expected;
mod failure;
mod glue;
mod outcome;
mod service;

pub use context::Context;
pub use error::{Error, Result};
pub use failure::{Failure, FailureKind, Recovery};
pub use outcome::{IntoOutcome, Outcome, RunReport};
pub use service::{Literal, Service, ServiceDescriptor};
pub use service_macros::service;

/// What generated code names, so that users need no other crate in their `Cargo.toml`. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "database")]
    pub use crate::database::__private as database;
    pub use std::boxed::Box;
    pub use std::option::Option::{None, Some};

    pub use inventory;

    pub use crate::__place as place;
    pub use crate::context::Context;
    pub use crate::error::Result;
    pub use crate::expected::ExpectedServices;
    pub use crate::failure::{Failure, Recovery};
    pub use crate::glue::{
        IntoCleaned, IntoRecovery, PerhapsDefault, Probe, config, default_instance, descriptor, fields, instance,
    };
    pub use crate::outcome::{IntoOutcome, Outcome};
    pub use crate::service::{
        BoxFuture, Build, Cleanup, Discovered, Lifecycle, Literal, Service, ServiceDescriptor, Shape,
    };
}

/// What a service's file usually needs.
pub mod prelude {
    pub use crate::{Context, Error, Failure, FailureKind, IntoOutcome, Outcome, Recovery, Result, Service, service};
}
