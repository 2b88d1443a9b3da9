//! `restart` is one of a few words.

use service_core::prelude::*;

#[service(restart = "on_failur")]
async fn typo() {}

#[service(restart = "sometimes")]
async fn unknown() {}

#[service(restart = on_failure)]
async fn unquoted() {}

#[service(restart = 1)]
async fn number() {}

#[service(restart = -1)]
async fn negative() {}

#[service(restart = true)]
async fn wrong_type() {}

#[service(restart =)]
async fn empty() {}

#[service(restart = "")]
async fn empty_text() {}

#[service(restart = "on_failure", restart = "on_failure")]
async fn twice() {}

fn main() {}
