//! Every type in `depends_on` is a service.

use service_core::prelude::*;

struct Other;

#[derive(Default)]
struct Sender;

#[service(depends_on = [Other])]
impl Sender {
    async fn update(&mut self) {}
}

fn main() {}
