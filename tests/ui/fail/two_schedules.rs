//! A service has one schedule.

use service_core::prelude::*;

#[service(interval = 30, delay = 5)]
async fn interval_and_delay() {}

#[service(cron = "@daily", interval = 30)]
async fn cron_and_interval() {}

#[service(interval = 30, cron = "@daily", delay = 5)]
async fn all_three() {}

fn main() {}
