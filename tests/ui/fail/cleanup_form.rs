//! The forms of `cleanup`.

use service_core::prelude::*;

#[derive(Default)]
struct ByValue;

#[service]
impl ByValue {
    async fn update(&mut self) {}

    async fn cleanup(self) {}
}

#[derive(Default)]
struct NoSelf;

#[service]
impl NoSelf {
    async fn update(&mut self) {}

    fn cleanup() {}
}

#[derive(Default)]
struct TooMany;

#[service]
impl TooMany {
    async fn update(&mut self) {}

    fn cleanup(&mut self, _cx: &Context, _failure: &Failure) {}
}

#[derive(Default)]
struct Static;

#[service]
impl Static {
    async fn update(&mut self) {}

    async fn cleanup(&mut self, _cx: &'static Context) {}
}

fn main() {}
