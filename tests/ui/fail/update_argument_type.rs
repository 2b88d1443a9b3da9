//! The compiler reports a reference to another type, on the user's token.

use service_core::prelude::*;

struct Settings;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self, settings: &Settings) {
        let _ = settings;
    }
}

fn main() {}
