//! `discover` is true or false.

use service_core::prelude::*;

#[service(discover = "true")]
async fn quoted() {}

#[service(discover = 1)]
async fn number() {}

#[service(discover = yes)]
async fn word() {}

#[service(discover = -1)]
async fn negative() {}

#[service(discover = [true])]
async fn wrong_type() {}

#[service(discover = 99999999999999999999)]
async fn overflow() {}

#[service(discover)]
async fn no_value() {}

#[service(discover =)]
async fn empty() {}

#[service(discover = "")]
async fn empty_text() {}

#[service(discover = true, discover = true)]
async fn twice() {}

fn main() {}
