//! An `update` whose `#[cfg]` does not hold.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    #[cfg(any())]
    async fn update(&mut self) {}
}

fn main() {}
