//! On a struct the error shows the impl to write.

use service_core::prelude::*;

#[service(interval = 30)]
struct EmailSender {
    sent: u64,
}

fn main() {}
