//! A misspelt `update` is an error on its name.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn updte(&mut self) -> Result<Outcome> {
        Ok(Outcome::idle())
    }
}

#[derive(Default)]
struct Receiver;

#[service]
impl Receiver {
    async fn udpate(&mut self) {}
}

fn main() {}
