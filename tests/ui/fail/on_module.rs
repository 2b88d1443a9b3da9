//! On a module the error shows the impl to write.

use service_core::prelude::*;

#[service]
mod email_sender {}

fn main() {}
