//! A plain `fn update` is blocking and returns no future.

use service_core::prelude::*;

#[derive(Default)]
struct Sender;

#[service]
impl Sender {
    fn update(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

#[derive(Default)]
struct Boxed;

#[service]
impl Boxed {
    fn update(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }
}

fn main() {}
