//! `scope` is one of a few words.

use service_core::prelude::*;

#[service(scope = "proces")]
async fn typo() {}

#[service(scope = "sometimes")]
async fn unknown() {}

#[service(scope = process)]
async fn unquoted() {}

#[service(scope = 1)]
async fn number() {}

#[service(scope = -1)]
async fn negative() {}

#[service(scope = true)]
async fn wrong_type() {}

#[service(scope =)]
async fn empty() {}

#[service(scope = "")]
async fn empty_text() {}

#[service(scope = "process", scope = "process")]
async fn twice() {}

fn main() {}
