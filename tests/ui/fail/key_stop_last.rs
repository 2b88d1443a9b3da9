//! `stop_last` is true or false.

use service_core::prelude::*;

#[service(stop_last = "true")]
async fn quoted() {}

#[service(stop_last = 1)]
async fn number() {}

#[service(stop_last)]
async fn no_value() {}

#[service(stop_last = true, stop_last = false)]
async fn twice() {}

fn main() {}
