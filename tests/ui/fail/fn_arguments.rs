//! A free function is given the context and nothing else.

use service_core::prelude::*;

#[service]
async fn by_value(cx: Context) {}

#[service]
async fn exclusive(cx: &mut Context) {}

#[service]
async fn number(batch: u32) {}

#[service]
async fn two(cx: &Context, batch: u32) {}

fn main() {}
