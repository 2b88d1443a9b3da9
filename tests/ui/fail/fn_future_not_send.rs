//! The future of a free function that is not `Send`.

use std::rc::Rc;

use service_core::prelude::*;

#[service]
async fn count() {
    let counter = Rc::new(1);
    other().await;
    drop(counter);
}

async fn other() {}

fn main() {}
