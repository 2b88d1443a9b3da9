//! A service is a struct or an enum.

use service_core::prelude::*;

#[service]
impl [u8] {
    async fn update(&mut self) {}
}

#[service]
impl dyn Send {
    async fn update(&mut self) {}
}

#[service]
impl (u8, u8) {
    async fn update(&mut self) {}
}

fn main() {}
