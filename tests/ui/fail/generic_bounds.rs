//! A generic impl is a service for those types that can be sent between threads, and its own code needs what it uses.

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
