//! `scope = "cluster"` is not available yet.

use service_core::prelude::*;

#[service(scope = "cluster")]
async fn cluster() {}

fn main() {}
