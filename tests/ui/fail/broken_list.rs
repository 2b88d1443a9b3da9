//! Arguments that are not `key = value`.

use service_core::prelude::*;

#[service(30)]
async fn value_alone() {}

#[service("interval" = 30)]
async fn quoted_key() {}

#[service(interval: 30)]
async fn colon() {}

#[service(interval == 30)]
async fn comparison() {}

#[service(interval(30))]
async fn call() {}

#[service(interval = 30 timeout = 5)]
async fn no_comma() {}

#[service(interval = 30,, timeout = 5)]
async fn two_commas() {}

#[service(, interval = 30)]
async fn leading_comma() {}

#[service(interval = 30 timeout)]
async fn no_comma_no_value() {}

#[service({ interval = 30 })]
async fn braces() {}

#[service(max_failures = 5 retry_delay = 3 long_running = true, idle_timeout = "2m")]
async fn no_two_commas() {}

macro_rules! no_comma_between {
    ($first:meta, $second:meta) => {
        #[service($first $second)]
        async fn from_variables() {}
    };
}

no_comma_between!(interval = 30, timeout = 5);

fn main() {}
