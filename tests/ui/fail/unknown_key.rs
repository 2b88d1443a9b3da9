//! An unknown key names the nearest one.

use service_core::prelude::*;

#[service(intervall = 30)]
async fn one_letter_more() {}

#[service(retry_dealy = 5)]
async fn swapped() {}

#[service(maxfailures = 5)]
async fn underscore() {}

#[service(Interval = 5)]
async fn capital() {}

#[service(every = 30)]
async fn another_word() {}

#[service(disabled = true)]
async fn the_opposite() {}

#[service(batch_size = 100)]
async fn own_setting() {}

fn main() {}
