//! `name` is a service id.

use service_core::prelude::*;

#[service(name = 5)]
async fn wrong_type() {}

#[service(name = sender)]
async fn unquoted() {}

#[service(name = "EmailSender")]
async fn capital() {}

#[service(name = "email-sender")]
async fn dash() {}

#[service(name = "2nd")]
async fn digit() {}

#[service(name = "email__sender")]
async fn double() {}

#[service(name = "defaults")]
async fn reserved() {}

#[service(name = "größe")]
async fn foreign() {}

#[service(name = -1)]
async fn negative() {}

#[service(name =)]
async fn empty() {}

#[service(name = "")]
async fn empty_text() {}

#[service(name = "a", name = "b")]
async fn twice() {}

fn main() {}
