//! A generic service is registered by hand, and no service borrows.

use service_core::prelude::*;

struct Sender<T>(T);

#[service]
impl<T: Send + 'static> Sender<T> {
    async fn update(&mut self) {}
}

struct Pool<const N: usize>;

#[service(discover = true)]
impl<const N: usize> Pool<N> {
    async fn update(&mut self) {}
}

struct Several<K, V>(K, V);

#[service(intervall = 30)]
impl<K, V> Several<K, V> {
    async fn update(self) {}
}

struct Borrowing<'a>(&'a str);

#[service]
impl<'a> Borrowing<'a> {
    async fn update(&mut self) {}
}

struct Elided<'a>(&'a str);

#[service(discover = false)]
impl Elided<'_> {
    async fn update(&mut self) {}
}

struct Holder<T>(T);

#[service(discover = false)]
impl<'a> Holder<Vec<&'a str>> {
    async fn update(&mut self) {}
}

#[service]
impl Holder<(u8, &u8)> {
    async fn update(&mut self) {}
}

#[service(discover = false)]
impl<'a> Holder<fn(&'a str)> {
    async fn update(&mut self) {}
}

#[service]
impl Holder<[Option<&mut u8>; 2]> {
    async fn update(&mut self) {}
}

fn main() {}
