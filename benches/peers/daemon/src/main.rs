//! The peer service-daemon: it restarts functions that `#[service]` marks; the loop inside is the application's.

use std::sync::OnceLock;
use std::time::Duration;

use service_daemon::{Registry, ServiceDaemon, service, sleep};
use yardstick::Contender;

static EVERY: OnceLock<Duration> = OnceLock::new();

async fn ticking(index: usize) -> anyhow::Result<()> {
    let every = *EVERY.get().expect("it is set before the start");
    loop {
        yardstick::tick(index);
        if !sleep(every).await {
            return Ok(());
        }
    }
}

mod services {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/services.rs"));
}

struct Daemon(ServiceDaemon);

impl Contender for Daemon {
    async fn start(count: usize, every: Duration) -> Self {
        EVERY.get_or_init(|| every);
        let tag = match count {
            1 => "of_1",
            100 => "of_100",
            1_000 => "of_1000",
            _ => panic!("services are made for 1, 100 and 1,000"),
        };
        let mut daemon = ServiceDaemon::builder().with_registry(Registry::builder().with_tag(tag).build()).build();
        daemon.run().await;
        Self(daemon)
    }

    async fn stop(mut self) {
        self.0.shutdown();
        self.0.wait().await.expect("it stops");
    }
}

fn main() {
    yardstick::main::<Daemon>();
}
