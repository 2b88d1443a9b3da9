//! Tests of the admin interface: real HTTP over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "it uses a part of the collector")]
#[path = "../support/log.rs"]
mod log;
#[allow(dead_code, reason = "it uses a part of the server")]
#[path = "../support/postgres.rs"]
mod postgres;

mod access;
mod alert_webhook;
mod alerts;
mod cli;
mod commands;
mod events;
mod facade;
mod hostile;
mod lifetime;
mod metrics;
mod overrides;
mod pages;
mod prometheus;
mod promtool;
mod reading;
mod replicas;
mod site;
mod slow;
mod work;
