//! `catch_up` is one of a few words.

use service_core::prelude::*;

#[service(catch_up = "lastest", cron = "@daily")]
async fn typo() {}

#[service(catch_up = "sometimes", cron = "@daily")]
async fn unknown() {}

#[service(catch_up = latest, cron = "@daily")]
async fn unquoted() {}

#[service(catch_up = 1, cron = "@daily")]
async fn number() {}

#[service(catch_up = -1, cron = "@daily")]
async fn negative() {}

#[service(catch_up = true, cron = "@daily")]
async fn wrong_type() {}

#[service(catch_up =, cron = "@daily")]
async fn empty() {}

#[service(catch_up = "", cron = "@daily")]
async fn empty_text() {}

#[service(catch_up = "latest", catch_up = "latest", cron = "@daily")]
async fn twice() {}

fn main() {}
