//! A service is `Send`.

use std::rc::Rc;

use service_core::prelude::*;

#[derive(Default)]
struct Sender {
    cache: Rc<u32>,
}

#[service]
impl Sender {
    async fn update(&mut self) {
        let _ = &self.cache;
    }
}

fn main() {}
