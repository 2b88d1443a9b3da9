//! A shared `&self` needs a type that is `Sync`.

use std::cell::Cell;

use service_core::prelude::*;

#[derive(Default)]
struct Sender {
    sent: Cell<u64>,
}

#[service]
impl Sender {
    async fn update(&self) {
        self.sent.set(self.sent.get() + 1);
    }
}

fn main() {}
