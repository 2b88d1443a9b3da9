//! A service is one concrete type.

use service_core::prelude::*;

struct Sender<T>(T);

#[service]
impl<T: Send + 'static> Sender<T> {
    async fn update(&mut self) {}
}

struct Borrowing<'a>(&'a str);

#[service]
impl<'a> Borrowing<'a> {
    async fn update(&mut self) {}
}

struct Elided<'a>(&'a str);

#[service]
impl Elided<'_> {
    async fn update(&mut self) {}
}

fn main() {}
