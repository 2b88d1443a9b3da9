//! Arguments that are not `key = value`.

use service_core::prelude::*;

#[service(30)]
async fn value_alone() {}

#[service("interval" = 30)]
async fn quoted_key() {}

#[service(interval: 30)]
async fn colon() {}

#[service(interval == 30)]
async fn comparison() {}

#[service(interval(30))]
async fn call() {}

#[service(interval = 30 timeout = 5)]
async fn no_comma() {}

#[service(interval = 30,, timeout = 5)]
async fn two_commas() {}

#[service(, interval = 30)]
async fn leading_comma() {}

#[service(interval = 30 timeout)]
async fn no_comma_no_value() {}

#[service({ interval = 30 })]
async fn braces() {}

fn main() {}
