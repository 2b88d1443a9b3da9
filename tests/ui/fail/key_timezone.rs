//! `timezone` is a name of the IANA list.

use service_core::prelude::*;

#[service(timezone = 2, cron = "@daily")]
async fn wrong_type() {}

#[service(timezone = "+02:00", cron = "@daily")]
async fn offset() {}

#[service(timezone = "CEST", cron = "@daily")]
async fn abbreviation() {}

#[service(timezone = "europe/vienna", cron = "@daily")]
async fn lower_case() {}

#[service(timezone =, cron = "@daily")]
async fn empty() {}

#[service(timezone = "", cron = "@daily")]
async fn empty_text() {}

#[service(timezone = "UTC", timezone = "UTC", cron = "@daily")]
async fn twice() {}

#[service(timezone = "Europe/Viena", cron = "@daily")]
async fn misspelt() {}

fn main() {}
