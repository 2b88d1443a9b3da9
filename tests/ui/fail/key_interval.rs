//! `interval` is a time above zero.

use service_core::prelude::*;

#[service(interval = true)]
async fn wrong_type() {}

#[service(interval = "5 parsecs")]
async fn wrong_unit() {}

#[service(interval = "30")]
async fn no_unit() {}

#[service(interval = "5M")]
async fn months() {}

#[service(interval = 30s)]
async fn unquoted() {}

#[service(interval = -1)]
async fn negative() {}

#[service(interval = "-1s")]
async fn negative_text() {}

#[service(interval = 99999999999999999999)]
async fn overflow() {}

#[service(interval = "99999999999999999999d")]
async fn overflow_text() {}

#[service(interval = 1e30)]
async fn overflow_float() {}

#[service(interval =)]
async fn empty() {}

#[service(interval = "")]
async fn empty_text() {}

#[service(interval)]
async fn no_value() {}

#[service(interval = 1, interval = 2)]
async fn twice() {}

#[service(interval = 0)]
async fn zero() {}

#[service(interval = 0.0)]
async fn zero_float() {}

#[service(interval = "0s")]
async fn zero_text() {}

#[service(interval = INTERVAL)]
async fn constant() {}

#[service(interval = 5 * 60)]
async fn calculated() {}

#[service(interval = Duration::from_secs(5))]
async fn duration() {}

fn main() {}
