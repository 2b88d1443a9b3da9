//! The bounds that a generic service needs.

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

fn main() {}
