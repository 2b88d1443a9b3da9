//! `configure` builds the instance and has no `self`.

use service_core::prelude::*;

struct Sender;

#[service]
impl Sender {
    fn configure(&self) -> Self {
        Self
    }

    async fn update(&mut self) {}
}

fn main() {}
