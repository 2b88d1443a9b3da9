//! Keys that have no effect without another one, or that contradict each other.

use service_core::prelude::*;

#[service(timezone = "Europe/Vienna")]
async fn timezone_without_cron() {}

#[service(catch_up = "latest", interval = 30)]
async fn catch_up_without_cron() {}

#[service(restart_delay = 5)]
async fn restart_delay_alone() {}

#[service(max_restarts = 5, restart = "never")]
async fn restarts_never() {}

#[service(restart_window = 60)]
async fn restart_window_alone() {}

#[service(retry_delay = "10m", max_retry_delay = 60)]
async fn cap_below_first_wait() {}

fn main() {}
