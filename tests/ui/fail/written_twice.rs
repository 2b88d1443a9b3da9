//! The attribute is written once.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service(interval = 30)]
#[service(delay = 5)]
impl Sender {
    async fn update(&mut self) {}
}

#[service]
#[service_core::service]
async fn tick() {}

struct Mails;

impl Mails {
    #[service]
    #[service]
    async fn send(&mut self) {}
}

fn starts<S: Service>() {}

fn uses() {
    starts::<Sender>();
    starts::<TickService>();
}

fn main() {}
