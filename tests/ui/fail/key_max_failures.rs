//! `max_failures` is a whole number.

use service_core::prelude::*;

#[service(max_failures = true)]
async fn wrong_type() {}

#[service(max_failures = "5")]
async fn quoted() {}

#[service(max_failures = "five")]
async fn words() {}

#[service(max_failures = 2.5)]
async fn fraction() {}

#[service(max_failures = 5s)]
async fn unit() {}

#[service(max_failures = -1)]
async fn negative() {}

#[service(max_failures = 5000000000)]
async fn overflow() {}

#[service(max_failures =)]
async fn empty() {}

#[service(max_failures = "")]
async fn empty_text() {}

#[service(max_failures = 1, max_failures = 2)]
async fn twice() {}

fn main() {}
