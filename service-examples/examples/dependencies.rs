//! Services that depend on each other: started in order, stopped in reverse.
//!
//! `cargo run --example dependencies`

use service_core::prelude::*;

struct Cache;

#[service(interval = "1h")]
impl Cache {
    async fn configure() -> Self {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        println!("the cache is warm");
        Cache
    }

    async fn update(&mut self) {}

    fn cleanup(&mut self) {
        println!("the cache is closed");
    }
}

struct Reader;

#[service(interval = "1h", depends_on = [Cache])]
impl Reader {
    fn configure() -> Self {
        println!("the reader starts");
        Reader
    }

    async fn update(&mut self) {}

    fn cleanup(&mut self) {
        println!("the reader is closed");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let services = ServiceRegistry::start_all().await?;
    services.shutdown().await
}
