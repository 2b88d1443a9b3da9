//! The product: services of a registry.

use std::time::Duration;

use service_core::prelude::*;
use yardstick::Contender;

/// As in a program, the interval is that of the attribute. Options that are set at a registration take memory for each
/// service.
macro_rules! ticking {
    ($($name:ident every $seconds:literal,)+) => {$(
        struct $name(usize);

        #[service(interval = $seconds, discover = false)]
        impl $name {
            async fn update(&mut self) {
                yardstick::tick(self.0);
            }
        }
    )+};
}

ticking! {
    Quick every 0.01,
    Steady every 1,
    Idle every 3600,
}

struct Services(ServiceRegistry);

impl Contender for Services {
    async fn start(count: usize, every: Duration) -> Self {
        let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
        for index in 0..count {
            let id = format!("service_{index}");
            let registering = match every.as_millis() {
                10 => registry.register(id, Quick(index)),
                1_000 => registry.register(id, Steady(index)),
                _ => registry.register(id, Idle(index)),
            };
            registering.await.expect("registers");
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
