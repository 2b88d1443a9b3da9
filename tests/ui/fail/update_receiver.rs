//! `update` takes `&self` or `&mut self`.

use service_core::prelude::*;

#[derive(Default)]
struct ByValue;

#[service]
impl ByValue {
    async fn update(self) {}
}

#[derive(Default)]
struct Boxed;

#[service]
impl Boxed {
    async fn update(self: Box<Self>) {}
}

#[derive(Default)]
struct Missing;

#[service]
impl Missing {
    async fn update(_cx: &Context) {}
}

fn main() {}
