//! A service owns what it holds.

use service_core::prelude::*;

struct Sender<'a>(&'a str);

type Borrowing<'a> = Sender<'a>;

#[service(discover = false)]
impl Sender<'static> {
    async fn update(&mut self) {}
}

#[service(discover = false)]
impl Borrowing<'_> {
    async fn update(&mut self) {}
}

fn main() {}
