//! A method with another word for `update` is named.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn tick(&mut self) {}
}

fn main() {}
