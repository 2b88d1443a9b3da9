//! Values that several services share: passed to the builder once, and found by type.
//!
//! `cargo run --example shared_state`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service_core::prelude::*;

#[derive(Clone, Default)]
struct Orders(Arc<AtomicU64>);

#[service(interval = "20ms")]
async fn shop(cx: &Context) -> Result<()> {
    cx.state::<Orders>()?.0.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[service(interval = "50ms")]
async fn kitchen(cx: &Context) -> Result<Outcome> {
    let orders = cx.state::<Orders>()?.0.swap(0, Ordering::Relaxed);
    Ok(Outcome::processed(orders))
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::builder().state(Orders::default()).start_all().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let kitchen = services.get("kitchen").ok_or_else(|| Error::msg("not registered"))?;
    println!("the kitchen cooked {} orders", kitchen.health().total_processed);
    services.shutdown().await
}
