//! Blocking code is a plain `fn`: it runs on the blocking pool, and the async threads stay free.
//!
//! `cargo run --example blocking_work`

use std::time::Duration;

use service_core::prelude::*;

#[derive(Default)]
struct PrimeCounter {
    below: u64,
}

#[service(interval = "10ms")]
impl PrimeCounter {
    fn update(&mut self, cx: &Context) -> Outcome {
        self.below += 5_000;
        let primes = (2..self.below).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count();
        println!("{primes} primes below {}", self.below);
        // Blocking code cannot be aborted, so it checks for a stop itself.
        if self.below >= 20_000 && !cx.is_stopping() {
            cx.stop();
        }
        Outcome::processed(1)
    }
}

#[service(interval = "1ms")]
async fn ticker() {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let services = ServiceRegistry::start_all().await?;
    let counter = services.get("prime_counter").ok_or_else(|| Error::msg("not registered"))?;
    counter.wait_for(ServiceState::Stopped).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let ticks = services.get("ticker").map_or(0, |ticker| ticker.health().runs);
    println!("the ticker kept running on the only async thread: {}", ticks > 5);
    services.shutdown().await
}
