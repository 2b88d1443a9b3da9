//! Futures of `configure` and `cleanup` that are not `Send`.

use std::rc::Rc;

use service_core::prelude::*;

struct Sender;

#[service]
impl Sender {
    async fn configure() -> Self {
        let counter = Rc::new(1);
        other().await;
        drop(counter);
        Self
    }

    async fn update(&mut self) {}

    async fn cleanup(&mut self) {
        let counter = Rc::new(1);
        other().await;
        drop(counter);
    }
}

async fn other() {}

fn main() {}
