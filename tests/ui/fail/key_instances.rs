//! `instances` is a whole number from 1 to 10,000.

use service_core::prelude::*;

#[service(instances = 0)]
async fn none() {}

#[service(instances = 10001)]
async fn too_many() {}

#[service(instances = "4")]
async fn quoted() {}

#[service(instances = 2.5)]
async fn fraction() {}

#[service(instances = -1)]
async fn negative() {}

#[service(instances)]
async fn no_value() {}

#[service(instances = 1, instances = 2)]
async fn twice() {}

#[service(workers = 4)]
async fn synonym() {}

fn main() {}
