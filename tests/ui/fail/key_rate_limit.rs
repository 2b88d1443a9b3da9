//! `rate_limit` is a number per second, minute or hour.

use service_core::prelude::*;

#[service(rate_limit = 10)]
async fn wrong_type() {}

#[service(rate_limit = "10")]
async fn no_unit() {}

#[service(rate_limit = "10/day")]
async fn wrong_unit() {}

#[service(rate_limit = "0/s")]
async fn zero() {}

#[service(rate_limit = "-1/s")]
async fn negative() {}

#[service(rate_limit = "99999999999/s")]
async fn overflow() {}

#[service(rate_limit = "ten/s")]
async fn words() {}

#[service(rate_limit =)]
async fn empty() {}

#[service(rate_limit = "")]
async fn empty_text() {}

#[service(rate_limit = "1/s", rate_limit = "2/s")]
async fn twice() {}

fn main() {}
