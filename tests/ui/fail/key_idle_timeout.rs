//! `idle_timeout` takes only its own values.

use service_core::prelude::*;

#[service(idle_timeout = 0, long_running = true)]
async fn wrong_value() {}

#[service(idle_timeout = "2 weeks", long_running = true)]
async fn wrong_form() {}

fn main() {}
