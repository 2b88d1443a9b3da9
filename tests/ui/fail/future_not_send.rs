//! A future that is not `Send` is reported at the user's await, with the value that is held.

use std::rc::Rc;

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    async fn update(&mut self) -> Result<Outcome> {
        let counter = Rc::new(1);
        other().await;
        Ok(Outcome::processed(*counter))
    }
}

async fn other() {}

fn main() {}
