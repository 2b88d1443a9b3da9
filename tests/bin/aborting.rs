//! A program that starts no service, and logs the warnings of the start. A test also builds it with `panic = "abort"`.

use service_core::prelude::*;
use service_tests::Lines;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing::subscriber::set_global_default(Lines(|line| eprintln!("{line}")))?;
    ServiceRegistry::builder().without_discovered().start_all().await?;
    Ok(())
}
