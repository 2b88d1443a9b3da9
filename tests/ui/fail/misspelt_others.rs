//! A misspelt lifecycle method is a warning, as it may be the user's own.

#![deny(deprecated)]
#![allow(dead_code)]

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    fn on_fail(&mut self, failure: &Failure) -> Recovery {
        failure.recovery()
    }

    async fn clean_up(&mut self) {}

    fn configuration(_cx: &Context) -> Self {
        Self
    }
}

fn main() {}
