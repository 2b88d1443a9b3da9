//! A limit on calls per second: `cx.permit()` waits for a permit, and returns `false` when a stop of the service is
//! requested.
//!
//! `cargo run --example rate_limited`

use std::time::Instant;

use service_core::prelude::*;

#[derive(Default)]
struct Geocoder;

#[service(interval = "1h", rate_limit = "20/s")]
impl Geocoder {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut asked = 0;
        for address in 1..=30 {
            if !cx.permit().await {
                break;
            }
            asked = address; // ask the server here
        }
        Ok(Outcome::processed(asked))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let started = Instant::now();
    let services = ServiceRegistry::start_all().await?;
    let geocoder = services.get("geocoder").ok_or_else(|| Error::msg("not registered"))?;
    while geocoder.health().total_processed == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    println!("30 addresses at 20 a second took {:.1} s", started.elapsed().as_secs_f64());
    services.shutdown().await
}
