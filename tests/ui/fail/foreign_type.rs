//! Here the compiler adds its own message.

use service_core::prelude::*;

#[service]
impl Vec<u8> {
    async fn update(&mut self) {}
}

fn main() {}
