//! The same in a free function.

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
