//! `lease` is a time.

use service_core::prelude::*;

#[service(lease = true, scope = "cluster")]
async fn wrong_type() {}

#[service(lease = "5 parsecs", scope = "cluster")]
async fn wrong_unit() {}

#[service(lease = "30", scope = "cluster")]
async fn no_unit() {}

#[service(lease = "5M", scope = "cluster")]
async fn months() {}

#[service(lease = 30s, scope = "cluster")]
async fn unquoted() {}

#[service(lease = -1, scope = "cluster")]
async fn negative() {}

#[service(lease = "-1s", scope = "cluster")]
async fn negative_text() {}

#[service(lease = 99999999999999999999, scope = "cluster")]
async fn overflow() {}

#[service(lease = "99999999999999999999d", scope = "cluster")]
async fn overflow_text() {}

#[service(lease = 1e30, scope = "cluster")]
async fn overflow_float() {}

#[service(lease =, scope = "cluster")]
async fn empty() {}

#[service(lease = "", scope = "cluster")]
async fn empty_text() {}

#[service(lease, scope = "cluster")]
async fn no_value() {}

#[service(lease = 1, lease = 2, scope = "cluster")]
async fn twice() {}

#[service(lease = 30)]
async fn without_scope() {}

#[service(lease = 0, scope = "cluster")]
async fn zero() {}

#[service(lease = "999ms", scope = "cluster")]
async fn below_a_second() {}

fn main() {}
