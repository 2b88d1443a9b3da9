//! `configure` returns the instance.

use service_core::prelude::*;

struct Nothing;

#[service]
impl Nothing {
    fn configure() {}

    async fn update(&mut self) {}
}

struct Perhaps;

#[service]
impl Perhaps {
    async fn configure() -> Option<Self> {
        None
    }

    async fn update(&mut self) {}
}

struct NoError;

struct Failing;

#[service]
impl Failing {
    fn configure() -> std::result::Result<Self, NoError> {
        Ok(Self)
    }

    async fn update(&mut self) {}
}

fn main() {}
