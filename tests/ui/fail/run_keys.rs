//! Keys of a schedule do not apply to `run`, and those of `run` not to `update`.

use service_core::prelude::*;

#[derive(Default)]
struct Feed;

#[service(interval = 30, cron = "0 3 * * *", initial_delay = 1, jitter = 1, timeout = 5, exhausted = "fail", retry_delay = 1)]
impl Feed {
    async fn run(&mut self) {}
}

#[derive(Default)]
struct Mailer;

#[service(idle_timeout = "2m", on_end = "again", stable_after = 5, readiness = "explicit", long_running = true)]
impl Mailer {
    async fn update(&mut self) {}
}

#[derive(Default)]
struct Consumer;

#[service(catch_up = "latest", timezone = "Europe/Vienna")]
impl Consumer {
    async fn run(&mut self) {}
}

#[service(idle_timeout = "2m")]
async fn beat() {}

#[service(interval = 30, long_running = true)]
async fn follow() {}

fn main() {}
