//! The argument of `on_failure` is a `&Failure`.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    fn on_failure(&mut self, _error: &Error) -> Recovery {
        Recovery::Retry
    }
}

fn main() {}
