//! `needs` is a list of probes.

use service_core::prelude::*;

#[service(needs = "api")]
async fn no_list() {}

#[service(needs = [api])]
async fn no_quotes() {}

#[service(needs = ["an api"])]
async fn wrong_name() {}

fn main() {}
