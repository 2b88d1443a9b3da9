//! A type without the attribute, where a service is asked for.

use service_core::prelude::*;

struct Sender;

fn starts<S: Service>() {}

fn uses() {
    starts::<Sender>();
}

fn main() {}
