//! A generic impl is a service for the types that can be sent between threads; its methods need bounds for what they use.

use std::rc::Rc;

use service_core::prelude::*;

trait Mailer {
    async fn send(&self);
}

struct Sender<M>(M);

#[service(discover = false)]
impl<M> Sender<M> {
    async fn update(&mut self) {}
}

struct Sending<M>(M);

#[service(discover = false)]
impl<M: Mailer + Send + Sync + 'static> Sending<M> {
    async fn update(&mut self) {
        self.0.send().await;
    }
}

fn starts<S: Service>(_: S) {}

fn main() {
    starts(Sender(5));
    starts(Sender(Rc::new(5)));
}
