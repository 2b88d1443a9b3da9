//! On a trait the error shows the impl to write.

use service_core::prelude::*;

#[service]
pub trait Sender {
    fn send(&self);
}

fn main() {}
