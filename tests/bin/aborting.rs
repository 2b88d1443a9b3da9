//! Starts nothing, and says at start what there is to say; a test builds it with `panic = "abort"`, too.

use service_core::prelude::*;
use service_tests::Lines;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing::subscriber::set_global_default(Lines(|line| eprintln!("{line}")))?;
    ServiceRegistry::builder().without_discovered().start_all().await?;
    Ok(())
}
