//! `scope = "cluster"` comes later.

use service_core::prelude::*;

#[service(scope = "cluster")]
async fn cluster() {}

fn main() {}
