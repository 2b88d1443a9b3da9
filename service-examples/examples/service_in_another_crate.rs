//! A service in another crate is discovered like any other, if the linker keeps that crate. The linker drops a crate
//! that no code refers to. `use … as _;` refers to it, and `expect_services!` reports a missing service at the start.
//!
//! `cargo run --example service_in_another_crate`

use service_core::prelude::*;

// Without this line the crate is in Cargo.toml, but not in the program.
use example_rain_gauge as _;

service_core::expect_services!["rain_gauge"];

#[tokio::main]
async fn main() -> Result<()> {
    for found in ServiceRegistry::discovered() {
        println!("{} of {}", found.id(), found.module_path());
    }
    let services = ServiceRegistry::start_all().await?;
    let gauge = services.get("rain_gauge").ok_or_else(|| Error::msg("not registered"))?;
    gauge.run_now().await?;
    services.shutdown().await
}
