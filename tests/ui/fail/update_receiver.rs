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

#[derive(Default)]
struct BoxBehindReference;

#[service]
impl BoxBehindReference {
    async fn update(self: &Box<Self>) {}
}

#[derive(Default)]
struct Pinned;

#[service]
impl Pinned {
    async fn update(&mut self) {}

    fn cleanup(self: std::pin::Pin<&mut Self>) {}
}

#[derive(Default)]
struct Static;

#[service]
impl Static {
    fn update(&'static mut self) {}
}

#[derive(Default)]
struct TwoReferences;

#[service]
impl TwoReferences {
    async fn run(self: &'_ &Self) {}
}

fn main() {}
