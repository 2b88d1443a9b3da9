//! Two `update`s without a `#[cfg]`: the compiler adds its own message.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    async fn update(&self) {}
}

fn main() {}
