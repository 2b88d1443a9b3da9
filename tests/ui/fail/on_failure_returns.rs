//! `on_failure` returns a `Recovery`.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    fn on_failure(&mut self, _failure: &Failure) -> bool {
        true
    }
}

fn main() {}
