//! A free function is plain Rust without parameters.

use service_core::prelude::*;

#[service]
async fn generic<T>() {}

#[service]
async unsafe fn careless() {}

#[service]
async extern "C" fn foreign() {}

fn main() {}
