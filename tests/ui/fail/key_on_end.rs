//! `on_end` takes only its own values.

use service_core::prelude::*;

#[service(on_end = "restart", long_running = true)]
async fn wrong_value() {}

#[service(on_end = again, long_running = true)]
async fn wrong_form() {}

fn main() {}
