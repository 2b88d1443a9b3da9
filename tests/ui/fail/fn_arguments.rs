//! A free function takes only the context.

use service_core::prelude::*;

#[service]
async fn by_value(_cx: Context) {}

#[service]
async fn exclusive(_cx: &mut Context) {}

#[service]
async fn number(_batch: u32) {}

#[service]
async fn two(_cx: &Context, _batch: u32) {}

#[service]
async fn for_the_whole_program(_cx: &'static Context) {}

fn main() {}
