//! The types that `update` can return.

use service_core::prelude::*;

#[derive(Default)]
struct Number;

#[service]
impl Number {
    async fn update(&mut self) -> u32 {
        5
    }
}

struct NoError;

#[derive(Default)]
struct Failing;

#[service]
impl Failing {
    async fn update(&mut self) -> std::result::Result<(), NoError> {
        Err(NoError)
    }
}

#[derive(Default)]
struct Blocking;

#[service]
impl Blocking {
    fn update(&mut self) -> Option<u32> {
        None
    }
}

#[service]
async fn free() -> bool {
    true
}

fn main() {}
