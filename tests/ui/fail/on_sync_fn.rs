//! A free function is async; blocking code goes into an impl.

use service_core::prelude::*;

#[service(interval = 30)]
fn clean_inbox() {}

fn main() {}
