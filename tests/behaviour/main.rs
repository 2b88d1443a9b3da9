//! What the runtime promises, one file a behaviour.

#[cfg(feature = "database")]
mod bed_with_database;
mod configuration;
mod explain;
mod failures;
mod health;
mod lifecycle;
mod support;
