//! `update` takes only the context.

use service_core::prelude::*;

#[derive(Default)]
struct ByValue;

#[service]
impl ByValue {
    async fn update(&mut self, _cx: Context) {}
}

#[derive(Default)]
struct Exclusive;

#[service]
impl Exclusive {
    async fn update(&mut self, _cx: &mut Context) {}
}

#[derive(Default)]
struct Text;

#[service]
impl Text {
    async fn update(&mut self, _name: &str) {}
}

#[derive(Default)]
struct TooMany;

#[service]
impl TooMany {
    async fn update(&mut self, _cx: &Context, _batch: u32) {}
}

#[derive(Default)]
struct Static;

#[service]
impl Static {
    async fn update(&mut self, _cx: &'static Context) {}
}

#[derive(Default)]
struct StaticRun;

#[service]
impl StaticRun {
    async fn run(&mut self, _cx: &'static Context) {}
}

type Cx<'a> = &'a Context;

#[derive(Default)]
struct StaticAlias;

#[service]
impl StaticAlias {
    async fn update(&mut self, _cx: Cx<'static>) {}
}

fn main() {}
