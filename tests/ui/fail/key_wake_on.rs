//! `wake_on` is a list of topics.

use service_core::prelude::*;

#[service(wake_on = "orders")]
async fn no_list() {}

#[service(wake_on = [orders])]
async fn no_quotes() {}

#[service(wake_on = ["new orders", ""])]
async fn wrong_topics() {}

#[service(wake_on = true)]
async fn wrong_form() {}

#[service(wake_on = ["orders"], long_running = true)]
async fn long() {}

#[service(wake_on = [ORDERS])]
async fn constant() {}

#[service(wake_on = [orders, "new orders", 5])]
async fn several() {}

fn main() {}
