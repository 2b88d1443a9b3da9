//! The compiler's own message joins in here.

use service_core::prelude::*;

#[service]
impl Vec<u8> {
    async fn update(&mut self) {}
}

fn main() {}
