//! `initial_delay` is a time.

use service_core::prelude::*;

#[service(initial_delay = true)]
async fn wrong_type() {}

#[service(initial_delay = "5 parsecs")]
async fn wrong_unit() {}

#[service(initial_delay = "30")]
async fn no_unit() {}

#[service(initial_delay = "5M")]
async fn months() {}

#[service(initial_delay = 30s)]
async fn unquoted() {}

#[service(initial_delay = -5s)]
async fn negative() {}

#[service(initial_delay = "-1s")]
async fn negative_text() {}

#[service(initial_delay = 99999999999999999999)]
async fn overflow() {}

#[service(initial_delay = "99999999999999999999d")]
async fn overflow_text() {}

#[service(initial_delay = 1e30)]
async fn overflow_float() {}

#[service(initial_delay =)]
async fn empty() {}

#[service(initial_delay = "")]
async fn empty_text() {}

#[service(initial_delay)]
async fn no_value() {}

#[service(initial_delay = 1, initial_delay = 2)]
async fn twice() {}

fn main() {}
