//! A program whose `main` is one line, which tests start and operate by its command `services`.

use std::process::ExitCode;

use service_core::prelude::*;

/// Succeeds.
#[derive(Default)]
struct Steady;

#[service(interval = 60)]
impl Steady {
    async fn update(&mut self) -> Outcome {
        println!("steady: run");
        Outcome::processed(3).failed(1).again()
    }
}

/// Fails.
#[derive(Default)]
struct Broken;

#[service(enabled = false)]
impl Broken {
    async fn update(&mut self) -> Result<()> {
        Err(Error::msg("the provider is down"))
    }
}

/// Runs until a stop is requested, and a while longer.
#[derive(Default)]
struct Slow;

#[service(cron = "30 2 * * *", enabled = false)]
impl Slow {
    async fn update(&mut self, cx: &Context) {
        println!("slow: run");
        cx.stopping().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        println!("slow: end");
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    service_core::cli::run(async { Ok::<_, Error>(ServiceRegistry::builder().admin("127.0.0.1:9876")) }).await
}
