//! `exhausted` takes only its own values.

use service_core::prelude::*;

#[service(exhausted = "next")]
async fn wrong_value() {}

#[service(exhausted = fail)]
async fn wrong_form() {}

fn main() {}
