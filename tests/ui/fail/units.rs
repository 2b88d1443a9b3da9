//! Only the documented units.

use service_core::prelude::*;

#[service(interval = "30sec")]
async fn seconds() {}

#[service(delay = "2 hours")]
async fn hours() {}

#[service(timeout = "1h 30min")]
async fn minutes() {}

#[service(initial_delay = 30sec)]
async fn without_quotes() {}

#[service(retry_delay = "10us")]
async fn microseconds() {}

#[service(rate_limit = "10/sec")]
async fn rate() {}

fn main() {}
