//! `readiness` takes only its own values.

use service_core::prelude::*;

#[service(readiness = "ready", long_running = true)]
async fn wrong_value() {}

#[service(readiness = explicit, long_running = true)]
async fn wrong_form() {}

fn main() {}
