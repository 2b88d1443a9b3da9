//! `cleanup` returns nothing or a result of nothing.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    async fn cleanup(&mut self) -> Outcome {
        Outcome::idle()
    }
}

fn main() {}
