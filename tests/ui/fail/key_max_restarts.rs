//! `max_restarts` is a whole number.

use service_core::prelude::*;

#[service(max_restarts = true, restart = "on_failure")]
async fn wrong_type() {}

#[service(max_restarts = "5", restart = "on_failure")]
async fn quoted() {}

#[service(max_restarts = "five", restart = "on_failure")]
async fn words() {}

#[service(max_restarts = 2.5, restart = "on_failure")]
async fn fraction() {}

#[service(max_restarts = 5s, restart = "on_failure")]
async fn unit() {}

#[service(max_restarts = -1, restart = "on_failure")]
async fn negative() {}

#[service(max_restarts = 5000000000, restart = "on_failure")]
async fn overflow() {}

#[service(max_restarts =, restart = "on_failure")]
async fn empty() {}

#[service(max_restarts = "", restart = "on_failure")]
async fn empty_text() {}

#[service(max_restarts = 1, max_restarts = 2, restart = "on_failure")]
async fn twice() {}

fn main() {}
