//! What the runtime promises, one file a behaviour.

mod acting;
mod blocking;
mod config_in_services;
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
