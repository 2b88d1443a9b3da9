//! `stable_after` takes only its own values.

use service_core::prelude::*;

#[service(stable_after = -1, long_running = true)]
async fn wrong_value() {}

#[service(stable_after = "soon", long_running = true)]
async fn wrong_form() {}

fn main() {}
