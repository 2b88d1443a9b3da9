//! A lock held over an await.

use std::sync::Mutex;

use service_core::prelude::*;

#[derive(Default)]
struct Sender {
    queue: Mutex<Vec<u8>>,
}

#[service]
impl Sender {
    async fn update(&mut self) {
        let queue = self.queue.lock().unwrap();
        send(&queue).await;
    }
}

async fn send(_: &[u8]) {}

fn main() {}
