//! `long_running` takes only its own values.

use service_core::prelude::*;

#[service(long_running = "yes")]
async fn wrong_value() {}

#[service(long_running = 1)]
async fn wrong_form() {}

/// The other keys are right for one of the values.
#[service(long_running = "yes", idle_timeout = "2m", on_end = "again")]
async fn with_other_keys() {}

fn main() {}
