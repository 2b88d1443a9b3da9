//! A program whose `main` is one line, which tests start and operate by its command `services`.

use std::process::ExitCode;

use service_core::prelude::*;

/// Succeeds.
#[derive(Default)]
struct Steady;

#[service(interval = 60)]
impl Steady {
    async fn update(&mut self, cx: &Context) -> Outcome {
        println!("steady: run");
        if let Some(address) = cx.services().admin_address() {
            println!("admin: {address}");
        }
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

/// Its blocking code never returns.
struct Hung;

#[service(timeout = "200ms", drain_timeout = "200ms", discover = false)]
impl Hung {
    fn update(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut builder = ServiceRegistry::builder();
    if std::env::var_os("OPERATED_HUNG").is_some() {
        builder = builder.service("hung", Hung);
    }
    if let Ok(address) = std::env::var("OPERATED_ADDRESS") {
        builder = builder.admin(address).admin_token("in-the-code");
    }
    service_core::cli::run(builder).await
}
