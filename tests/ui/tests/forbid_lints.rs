//! In a crate that forbids what others deny.

#![forbid(unsafe_code, missing_docs, unused, deprecated, rust_2018_idioms, missing_debug_implementations)]

use service_core::prelude::*;

struct Sender;

#[service(discover = false)]
impl Sender {
    async fn update(&mut self) {}
}

#[derive(Default)]
struct Receiver;

#[service]
impl Receiver {
    async fn update(&mut self) {}

    fn cleanup(&self) {}
}

#[service(interval = 5)]
async fn tick(cx: &Context) {
    let _ = cx;
}

#[test]
fn it_compiles() {
    let _ = Sender;
}
