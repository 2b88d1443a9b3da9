//! The values that user code gives and receives: outcomes, failures, errors, secrets, states.
//!
//! Nothing here knows a clock, a task or the registry.

pub(crate) mod error;
pub(crate) mod failure;
pub(crate) mod literal;
pub(crate) mod outcome;
pub(crate) mod secret;
pub(crate) mod state;
