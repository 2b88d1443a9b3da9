//! `long_running` takes only its own values.

use service_core::prelude::*;

#[service(long_running = "yes")]
async fn wrong_value() {}

#[service(long_running = 1)]
async fn wrong_form() {}

fn main() {}
