//! Not on the impl of a trait.

use service_core::prelude::*;

struct Sender;

#[service]
impl Clone for Sender {
    fn clone(&self) -> Self {
        Self
    }
}

fn main() {}
