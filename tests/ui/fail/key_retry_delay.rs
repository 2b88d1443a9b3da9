//! `retry_delay` is a time.

use service_core::prelude::*;

#[service(retry_delay = true)]
async fn wrong_type() {}

#[service(retry_delay = "5 parsecs")]
async fn wrong_unit() {}

#[service(retry_delay = "30")]
async fn no_unit() {}

#[service(retry_delay = "5M")]
async fn months() {}

#[service(retry_delay = 30s)]
async fn unquoted() {}

#[service(retry_delay = -1)]
async fn negative() {}

#[service(retry_delay = "-1s")]
async fn negative_text() {}

#[service(retry_delay = 99999999999999999999)]
async fn overflow() {}

#[service(retry_delay = "99999999999999999999d")]
async fn overflow_text() {}

#[service(retry_delay = 1e30)]
async fn overflow_float() {}

#[service(retry_delay =)]
async fn empty() {}

#[service(retry_delay = "")]
async fn empty_text() {}

#[service(retry_delay)]
async fn no_value() {}

#[service(retry_delay = 1, retry_delay = 2)]
async fn twice() {}

fn main() {}
