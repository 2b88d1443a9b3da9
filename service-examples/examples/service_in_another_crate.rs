//! A service in another crate is discovered like one's own, if the linker keeps that crate: it drops what nothing in
//! the program names. `use … as _;` names it, and `expect_services!` notices when it is missing.
//!
//! `cargo run --example service_in_another_crate`

use service_core::prelude::*;

// Without this line the crate is in Cargo.toml and nevertheless not in the program.
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
