//! Neither `configure` nor `Default`.

use service_core::prelude::*;

struct Sender {
    queue: Vec<String>,
}

#[service]
impl Sender {
    async fn update(&mut self) {
        self.queue.clear();
    }
}

fn main() {}
