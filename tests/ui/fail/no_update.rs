//! A service has an `update`.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    fn send(&self) {}
}

fn main() {}
