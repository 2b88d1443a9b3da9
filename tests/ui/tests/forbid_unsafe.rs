//! In a crate that forbids `unsafe`.

#![forbid(unsafe_code)]

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) {}
}

#[service]
async fn tick() {}

#[test]
fn it_compiles() {}
