use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}

    fn cleanup(&mut self, cx) {}
}

fn main() {}
