//! `crate` is a path.

use service_core::prelude::*;

#[service(crate = "::service_core")]
async fn quoted() {}

#[service(crate = 5)]
async fn number() {}

#[service(crate = -1)]
async fn negative() {}

#[service(crate =)]
async fn empty() {}

#[service(crate = "")]
async fn empty_text() {}

#[service(crate = service_core<u8>)]
async fn generic() {}

#[service(crate = ::service_core, crate = ::service_core)]
async fn twice() {}

fn main() {}
