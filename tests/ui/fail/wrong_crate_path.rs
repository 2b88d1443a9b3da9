//! `crate` names a crate that is not there.

use service_core::prelude::*;

#[service(crate = ::not_here)]
async fn tick() {}

fn main() {}
