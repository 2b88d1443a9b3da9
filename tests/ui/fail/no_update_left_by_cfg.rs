//! An `update` whose `#[cfg]` is false.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    #[cfg(any())]
    async fn update(&mut self) {}
}

fn main() {}
