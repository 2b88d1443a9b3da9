//! On an enum the error shows the impl to write.

use service_core::prelude::*;

#[service]
pub enum Sender {
    Mail,
}

fn main() {}
