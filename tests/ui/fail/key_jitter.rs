//! `jitter` is a time.

use service_core::prelude::*;

#[service(jitter = true)]
async fn wrong_type() {}

#[service(jitter = "5 parsecs")]
async fn wrong_unit() {}

#[service(jitter = "30")]
async fn no_unit() {}

#[service(jitter = "5M")]
async fn months() {}

#[service(jitter = 30s)]
async fn unquoted() {}

#[service(jitter = -1)]
async fn negative() {}

#[service(jitter = "-1s")]
async fn negative_text() {}

#[service(jitter = 99999999999999999999)]
async fn overflow() {}

#[service(jitter = "99999999999999999999d")]
async fn overflow_text() {}

#[service(jitter = 1e30)]
async fn overflow_float() {}

#[service(jitter =)]
async fn empty() {}

#[service(jitter = "")]
async fn empty_text() {}

#[service(jitter)]
async fn no_value() {}

#[service(jitter = 1, jitter = 2)]
async fn twice() {}

fn main() {}
