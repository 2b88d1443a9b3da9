//! A type name that gives no valid id.

use service_core::prelude::*;

#[derive(Default)]
struct Größe;

#[service]
impl Größe {
    async fn update(&mut self) {}
}

#[derive(Default)]
struct Defaults;

#[service]
impl Defaults {
    async fn update(&mut self) {}
}

fn main() {}
