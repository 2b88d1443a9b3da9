//! The product: services of a registry.

use std::time::Duration;

use service_core::prelude::*;
use yardstick::Contender;

struct Ticking(usize);

#[service(discover = false)]
impl Ticking {
    async fn update(&mut self) {
        yardstick::tick(self.0);
    }
}

struct Services(ServiceRegistry);

impl Contender for Services {
    async fn start(count: usize, every: Duration) -> Self {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
        let options = ServiceOptions::new().interval(every);
        for index in 0..count {
            registry.register(format!("service_{index}"), Ticking(index)).options(options.clone()).await.expect("registers");
        }
        registry.start().await.expect("starts");
        Self(registry)
    }

    async fn stop(self) {
        self.0.stop_all().await;
    }
}

fn main() {
    yardstick::main::<Services>();
}
