//! `enabled` is true or false.

use service_core::prelude::*;

#[service(enabled = "true")]
async fn quoted() {}

#[service(enabled = 1)]
async fn number() {}

#[service(enabled = yes)]
async fn word() {}

#[service(enabled = -1)]
async fn negative() {}

#[service(enabled = [true])]
async fn wrong_type() {}

#[service(enabled = 99999999999999999999)]
async fn overflow() {}

#[service(enabled)]
async fn no_value() {}

#[service(enabled =)]
async fn empty() {}

#[service(enabled = "")]
async fn empty_text() {}

#[service(enabled = true, enabled = true)]
async fn twice() {}

fn main() {}
