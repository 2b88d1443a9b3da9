//! `restart_delay` is a time.

use service_core::prelude::*;

#[service(restart_delay = true, restart = "on_failure")]
async fn wrong_type() {}

#[service(restart_delay = "5 parsecs", restart = "on_failure")]
async fn wrong_unit() {}

#[service(restart_delay = "30", restart = "on_failure")]
async fn no_unit() {}

#[service(restart_delay = "5M", restart = "on_failure")]
async fn months() {}

#[service(restart_delay = 30s, restart = "on_failure")]
async fn unquoted() {}

#[service(restart_delay = -1, restart = "on_failure")]
async fn negative() {}

#[service(restart_delay = "-1s", restart = "on_failure")]
async fn negative_text() {}

#[service(restart_delay = 99999999999999999999, restart = "on_failure")]
async fn overflow() {}

#[service(restart_delay = "99999999999999999999d", restart = "on_failure")]
async fn overflow_text() {}

#[service(restart_delay = 1e30, restart = "on_failure")]
async fn overflow_float() {}

#[service(restart_delay =, restart = "on_failure")]
async fn empty() {}

#[service(restart_delay = "", restart = "on_failure")]
async fn empty_text() {}

#[service(restart_delay, restart = "on_failure")]
async fn no_value() {}

#[service(restart_delay = 1, restart_delay = 2, restart = "on_failure")]
async fn twice() {}

fn main() {}
