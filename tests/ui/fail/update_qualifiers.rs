//! `update` is plain Rust without type parameters.

use service_core::prelude::*;

#[derive(Default)]
struct Generic;

#[service]
impl Generic {
    async fn update<T>(&mut self) {}
}

#[derive(Default)]
struct Careless;

#[service]
impl Careless {
    async unsafe fn update(&mut self) {}
}

#[derive(Default)]
struct Foreign;

#[service]
impl Foreign {
    extern "C" fn update(&mut self) {}
}

fn main() {}
