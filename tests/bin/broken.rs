//! A program whose services cannot be started, because of mistakes that only exist in the linker's list.

use service_core::prelude::*;

service_core::expect_services!["present", "dropped_by_the_linker"];

#[service(interval = 60)]
async fn present() {}

#[derive(Default)]
struct First;

#[service(interval = 60, name = "twin")]
impl First {
    async fn update(&mut self) {}
}

#[derive(Default)]
struct Second;

#[service(interval = 60, name = "twin")]
impl Second {
    async fn update(&mut self) {}
}

#[service(interval = 60, depends_on = ["presnt"])]
async fn dependent() {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut builder = ServiceRegistry::builder();
    if std::env::args().nth(1).as_deref() == Some("dependent") {
        builder = builder.except(["twin"]);
    }
    builder.start_all().await?;
    println!("started");
    Ok(())
}
