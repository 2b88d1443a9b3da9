//! The values that user code passes and receives: outcomes, failures, errors, secrets, states. Pure data: no clock, no
//! task, no registry.
//!
//! The traits that `#[service]` implements are in `runtime/`, because their methods take a `Context`.

pub(crate) mod error;
pub(crate) mod failure;
pub(crate) mod literal;
pub(crate) mod outcome;
pub(crate) mod secret;
pub(crate) mod state;
