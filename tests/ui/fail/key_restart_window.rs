//! `restart_window` is a time above zero.

use service_core::prelude::*;

#[service(restart_window = true, restart = "on_failure")]
async fn wrong_type() {}

#[service(restart_window = "5 parsecs", restart = "on_failure")]
async fn wrong_unit() {}

#[service(restart_window = "30", restart = "on_failure")]
async fn no_unit() {}

#[service(restart_window = "5M", restart = "on_failure")]
async fn months() {}

#[service(restart_window = 30s, restart = "on_failure")]
async fn unquoted() {}

#[service(restart_window = -1, restart = "on_failure")]
async fn negative() {}

#[service(restart_window = "-1s", restart = "on_failure")]
async fn negative_text() {}

#[service(restart_window = 99999999999999999999, restart = "on_failure")]
async fn overflow() {}

#[service(restart_window = "99999999999999999999d", restart = "on_failure")]
async fn overflow_text() {}

#[service(restart_window = 1e30, restart = "on_failure")]
async fn overflow_float() {}

#[service(restart_window =, restart = "on_failure")]
async fn empty() {}

#[service(restart_window = "", restart = "on_failure")]
async fn empty_text() {}

#[service(restart_window, restart = "on_failure")]
async fn no_value() {}

#[service(restart_window = 1, restart_window = 2, restart = "on_failure")]
async fn twice() {}

#[service(restart_window = 0, restart = "on_failure")]
async fn zero() {}

#[service(restart_window = 0.0, restart = "on_failure")]
async fn zero_float() {}

#[service(restart_window = "0s", restart = "on_failure")]
async fn zero_text() {}

fn main() {}
