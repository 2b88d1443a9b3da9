//! A method of another word for it is named.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn run(&mut self) {}
}

fn main() {}
