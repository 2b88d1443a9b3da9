//! What cannot be in the list of `depends_on`.

use service_core::prelude::*;

#[service(depends_on = [self])]
async fn keyword() {}

#[service(depends_on = [own])]
async fn own() {}

#[service(depends_on = [other, OtherService])]
async fn twice() {}

#[service(depends_on = other)]
async fn not_a_list() {}

#[service(depends_on = [5, other, "Other"])]
async fn several() {}

#[service]
async fn other() {}

fn main() {}
