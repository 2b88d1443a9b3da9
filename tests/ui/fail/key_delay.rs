//! `delay` is a time above zero.

use service_core::prelude::*;

#[service(delay = true)]
async fn wrong_type() {}

#[service(delay = "5 parsecs")]
async fn wrong_unit() {}

#[service(delay = "30")]
async fn no_unit() {}

#[service(delay = "5M")]
async fn months() {}

#[service(delay = 30s)]
async fn unquoted() {}

#[service(delay = -1)]
async fn negative() {}

#[service(delay = "-1s")]
async fn negative_text() {}

#[service(delay = 99999999999999999999)]
async fn overflow() {}

#[service(delay = "99999999999999999999d")]
async fn overflow_text() {}

#[service(delay = 1e30)]
async fn overflow_float() {}

#[service(delay =)]
async fn empty() {}

#[service(delay = "")]
async fn empty_text() {}

#[service(delay)]
async fn no_value() {}

#[service(delay = 1, delay = 2)]
async fn twice() {}

#[service(delay = 0)]
async fn zero() {}

#[service(delay = 0.0)]
async fn zero_float() {}

#[service(delay = "0s")]
async fn zero_text() {}

fn main() {}
