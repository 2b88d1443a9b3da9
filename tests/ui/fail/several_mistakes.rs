//! All errors are reported at once, each on its own token.

use service_core::prelude::*;

struct Sender;

#[service(intervall = 30, max_failures = "5", timeout = 0, critical)]
impl Sender {
    fn configure(self) -> Self {
        self
    }

    async fn update(self, _batch: u32) {}

    async fn on_failure(&mut self) {}
}

fn starts<S: Service>() {}

fn uses() {
    starts::<Sender>();
    Sender.update(5);
}

fn main() {}
