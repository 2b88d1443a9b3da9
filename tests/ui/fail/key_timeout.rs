//! `timeout` is a time above zero.

use service_core::prelude::*;

#[service(timeout = true)]
async fn wrong_type() {}

#[service(timeout = "5 parsecs")]
async fn wrong_unit() {}

#[service(timeout = "30")]
async fn no_unit() {}

#[service(timeout = "5M")]
async fn months() {}

#[service(timeout = 30s)]
async fn unquoted() {}

#[service(timeout = -1)]
async fn negative() {}

#[service(timeout = "-1s")]
async fn negative_text() {}

#[service(timeout = 99999999999999999999)]
async fn overflow() {}

#[service(timeout = "99999999999999999999d")]
async fn overflow_text() {}

#[service(timeout = 1e30)]
async fn overflow_float() {}

#[service(timeout =)]
async fn empty() {}

#[service(timeout = "")]
async fn empty_text() {}

#[service(timeout)]
async fn no_value() {}

#[service(timeout = 1, timeout = 2)]
async fn twice() {}

#[service(timeout = 0)]
async fn zero() {}

#[service(timeout = 0.0)]
async fn zero_float() {}

#[service(timeout = "0s")]
async fn zero_text() {}

fn main() {}
