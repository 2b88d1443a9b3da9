//! `crate` names a crate that does not exist.

use service_core::prelude::*;

#[service(crate = ::not_here)]
async fn tick() {}

fn main() {}
