//! The smallest service: an `async fn` with a schedule.
//!
//! `cargo run --example heartbeat`

use std::time::Duration;

use service_core::prelude::*;

#[service(interval = "100ms")]
async fn heartbeat(cx: &Context) {
    println!("beat {} of {}", cx.run_number(), cx.service_id());
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::start_all().await?;
    // A real program waits with `services.until_shutdown().await`. This example ends after a moment.
    tokio::time::sleep(Duration::from_millis(350)).await;
    services.shutdown().await
}
