//! `critical` is true or false.

use service_core::prelude::*;

#[service(critical = "true")]
async fn quoted() {}

#[service(critical = 1)]
async fn number() {}

#[service(critical = yes)]
async fn word() {}

#[service(critical = -1)]
async fn negative() {}

#[service(critical = [true])]
async fn wrong_type() {}

#[service(critical = 99999999999999999999)]
async fn overflow() {}

#[service(critical)]
async fn no_value() {}

#[service(critical =)]
async fn empty() {}

#[service(critical = "")]
async fn empty_text() {}

#[service(critical = true, critical = true)]
async fn twice() {}

fn main() {}
