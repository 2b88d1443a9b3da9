//! Background services inside a program.

mod context;
#[cfg(feature = "database")]
pub mod database;
mod error;
mod failure;
mod outcome;
mod service;

pub use context::Context;
pub use error::{Error, Result};
pub use failure::{Failure, FailureKind, Recovery};
pub use outcome::{IntoOutcome, Outcome, RunReport};
pub use service::{Literal, Service, ServiceDescriptor};

/// What generated code names, so that users need no other crate in their `Cargo.toml`. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::service::{BoxFuture, Build, Cleanup, Discovered, Lifecycle, Shape};
    pub use inventory;
}

/// What a service's file usually needs.
pub mod prelude {
    pub use crate::{Context, Error, Failure, FailureKind, IntoOutcome, Outcome, Recovery, Result, Service};
}
