//! An `update` and a `run`, each with a `#[cfg]` that is true.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    #[cfg(all())]
    async fn update(&mut self) {}

    #[cfg(not(any()))]
    async fn run(&mut self) {}
}

#[derive(Default)]
struct Receiver;

#[service]
impl Receiver {
    #[cfg(all())]
    async fn update(&mut self) {}

    #[cfg(not(all()))]
    async fn run(&mut self) {}
}

fn main() {}
