//! `on_failure` is not async.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    async fn on_failure(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }
}

fn main() {}
