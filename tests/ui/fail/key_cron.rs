//! `cron` is a cron expression, checked field by field.

use service_core::prelude::*;

#[service(cron = 5)]
async fn wrong_type() {}

#[service(cron = "")]
async fn empty_text() {}

#[service(cron =)]
async fn empty() {}

#[service(cron = "* * * *")]
async fn four_fields() {}

#[service(cron = "* * * * * * *")]
async fn seven_fields() {}

#[service(cron = "60 * * * *")]
async fn minute() {}

#[service(cron = "0 24 * * *")]
async fn hour() {}

#[service(cron = "0 0 0 * *")]
async fn day() {}

#[service(cron = "0 0 * 13 *")]
async fn month() {}

#[service(cron = "0 0 * * FRY")]
async fn weekday() {}

#[service(cron = "*/0 * * * *")]
async fn step() {}

#[service(cron = "5/10 * * * *")]
async fn bare_step() {}

#[service(cron = "0 17-9 * * *")]
async fn backwards() {}

#[service(cron = "-5 * * * *")]
async fn negative() {}

#[service(cron = "99999999999 * * * *")]
async fn overflow() {}

#[service(cron = "0 0 30 2 *")]
async fn never() {}

#[service(cron = "@dayly")]
async fn nickname() {}

#[service(cron = "@daily", cron = "@hourly")]
async fn twice() {}

#[service(cron = "0 0 30,31 2 *")]
async fn no_day_of_a_list() {}

#[service(cron = "0 0 31 4-4 *")]
async fn no_day_in_a_range_of_months() {}

#[service(cron = "0 0 1-7 * +MON#2")]
async fn no_day_of_this_weekday() {}

fn main() {}
