//! Two `update`s without a `#[cfg]`: the compiler's own message joins in.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    async fn update(&self) {}
}

fn main() {}
