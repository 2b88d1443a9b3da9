//! On a method in an impl.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

impl Sender {
    #[service(interval = 30)]
    async fn send(&mut self) {}
}

fn main() {}
