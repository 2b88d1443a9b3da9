//! `max_retry_delay` is a time.

use service_core::prelude::*;

#[service(max_retry_delay = true)]
async fn wrong_type() {}

#[service(max_retry_delay = "5 parsecs")]
async fn wrong_unit() {}

#[service(max_retry_delay = "30")]
async fn no_unit() {}

#[service(max_retry_delay = "5M")]
async fn months() {}

#[service(max_retry_delay = 30s)]
async fn unquoted() {}

#[service(max_retry_delay = -1)]
async fn negative() {}

#[service(max_retry_delay = "-1s")]
async fn negative_text() {}

#[service(max_retry_delay = 99999999999999999999)]
async fn overflow() {}

#[service(max_retry_delay = "99999999999999999999d")]
async fn overflow_text() {}

#[service(max_retry_delay = 1e30)]
async fn overflow_float() {}

#[service(max_retry_delay =)]
async fn empty() {}

#[service(max_retry_delay = "")]
async fn empty_text() {}

#[service(max_retry_delay)]
async fn no_value() {}

#[service(max_retry_delay = 1, max_retry_delay = 2)]
async fn twice() {}

fn main() {}
