//! What the runtime promises, one file a behaviour.

mod acting;
#[cfg(feature = "database")]
mod bed_with_database;
mod blocking;
mod config_in_services;
mod configuration;
mod critical;
mod dependencies;
mod events;
mod failures;
mod lifecycle;
mod panics;
mod pausing;
mod processes;
mod races;
mod rate_limit;
mod registry;
mod reset;
mod restart;
mod run_now;
mod single;
mod stopping;
mod support;
