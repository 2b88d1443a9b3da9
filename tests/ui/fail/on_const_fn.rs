//! A `const fn` does not run.

use service_core::prelude::*;

#[service]
const fn answer() -> u32 {
    42
}

fn main() {}
