//! Here the compiler adds its own message.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}
}

#[service(name = "second")]
impl Sender {
    async fn update(&mut self) {}
}

fn main() {}
