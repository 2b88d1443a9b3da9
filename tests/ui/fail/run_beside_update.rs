//! A service has either `update` or `run`.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {
        self.run(5);
    }

    fn run(&mut self, _mails: u32) {}
}

#[derive(Default)]
struct Feed;

#[service]
impl Feed {
    async fn run(&mut self) {}

    async fn run(&self) {}
}

#[derive(Default)]
struct Tested;

#[service]
impl Tested {
    #[cfg(any())]
    async fn run(&mut self) {}

    async fn update(&mut self) {}
}

fn main() {}
