//! A type without the attribute where a service is required.

use service_core::prelude::*;

struct Sender;

fn starts<S: Service>() {}

fn uses() {
    starts::<Sender>();
}

fn main() {}
