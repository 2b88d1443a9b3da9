//! What the runtime promises, one file a behaviour.

mod configuration;
mod failures;
mod lifecycle;
mod support;
