//! A `const fn` cannot be a service.

use service_core::prelude::*;

#[service]
const fn answer() -> u32 {
    42
}

fn main() {}
