//! Two `update`s whose `#[cfg]`s are both true: the compiler's own message.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    #[cfg(debug_assertions)]
    async fn update(&mut self) {}

    #[cfg(not(any()))]
    async fn update(&self) {}
}

fn main() {}
