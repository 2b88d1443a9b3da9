//! `drain_timeout` is a time.

use service_core::prelude::*;

#[service(drain_timeout = true)]
async fn wrong_type() {}

#[service(drain_timeout = "5 parsecs")]
async fn wrong_unit() {}

#[service(drain_timeout = "30")]
async fn no_unit() {}

#[service(drain_timeout = "5M")]
async fn months() {}

#[service(drain_timeout = 30s)]
async fn unquoted() {}

#[service(drain_timeout = -1)]
async fn negative() {}

#[service(drain_timeout = "-1s")]
async fn negative_text() {}

#[service(drain_timeout = 99999999999999999999)]
async fn overflow() {}

#[service(drain_timeout = "99999999999999999999d")]
async fn overflow_text() {}

#[service(drain_timeout = 1e30)]
async fn overflow_float() {}

#[service(drain_timeout =)]
async fn empty() {}

#[service(drain_timeout = "")]
async fn empty_text() {}

#[service(drain_timeout)]
async fn no_value() {}

#[service(drain_timeout = 1, drain_timeout = 2)]
async fn twice() {}

fn main() {}
