//! On other items the error shows the impl to write.

use service_core::prelude::*;

#[service]
type Sender = u32;

#[service]
const ANSWER: u32 = 42;

#[service]
static NAME: &str = "sender";

#[service]
pub use std::fmt;

#[service]
union Both {
    a: u32,
    b: f32,
}

fn main() {}
