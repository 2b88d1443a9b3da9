//! `retry_backoff` is a factor from 1.0.

use service_core::prelude::*;

#[service(retry_backoff = true)]
async fn wrong_type() {}

#[service(retry_backoff = "2.0")]
async fn quoted() {}

#[service(retry_backoff = 2x)]
async fn unit() {}

#[service(retry_backoff = 0)]
async fn zero() {}

#[service(retry_backoff = 0.5)]
async fn below_one() {}

#[service(retry_backoff = -2.0)]
async fn negative() {}

#[service(retry_backoff = 1e999)]
async fn overflow() {}

#[service(retry_backoff = 99999999999)]
async fn overflow_int() {}

#[service(retry_backoff =)]
async fn empty() {}

#[service(retry_backoff = "")]
async fn empty_text() {}

#[service(retry_backoff = 2.0, retry_backoff = 3.0)]
async fn twice() {}

fn main() {}
