//! `on_demand` is a schedule of its own.

use service_core::prelude::*;

#[service(on_demand = "yes")]
async fn wrong_value() {}

#[service(on_demand = true, interval = 30)]
async fn two_schedules() {}

#[service(on_demand = true, long_running = true)]
async fn long() {}

fn main() {}
