//! Tests of the runtime's behaviour, one file for each subject.

#![allow(clippy::unwrap_used, reason = "what helpers of tests unwrap is as good as in the tests")]

mod acting;
mod bed;
#[cfg(feature = "database")]
mod bed_with_database;
mod blocking;
mod children;
mod config_in_services;
mod configuration;
mod critical;
mod cron;
mod dependencies;
mod events;
mod explain;
mod failures;
mod generics;
mod health;
mod instances;
mod labels;
mod lifecycle;
mod many;
mod operators;
mod panics;
mod pausing;
mod probes;
mod processes;
mod races;
mod rate_limit;
mod registry;
mod reload;
mod reset;
mod restart;
mod run_now;
mod run_once;
mod runtimes;
mod sessions;
mod single;
mod spans;
mod stopping;
mod support;
#[cfg(target_os = "linux")]
mod systemd;
#[cfg(feature = "database")]
mod tables;
mod virtual_time;
