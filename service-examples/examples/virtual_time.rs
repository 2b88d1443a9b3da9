//! A test on virtual time: a week of a service takes milliseconds. In a real crate this is a
//! `#[tokio::test(start_paused = true)]`.
//!
//! `cargo run --example virtual_time`

use std::time::Duration;

use service_core::prelude::*;
use service_core::testing::TestBed;

/// Fails on every third run.
#[derive(Default)]
struct Flaky {
    runs: u32,
}

#[service(interval = "1h", max_failures = 1, retry_delay = "10m")]
impl Flaky {
    async fn update(&mut self) -> Result<Outcome> {
        self.runs += 1;
        if self.runs.is_multiple_of(3) {
            return Err(Error::msg("every third run fails"));
        }
        Ok(Outcome::processed(1))
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let bed = TestBed::new();
    let service = bed.start_of::<Flaky>().await;
    bed.run_for(Duration::from_secs((7 * 24 + 1) * 3600 - 1)).await;

    let health = service.health();
    println!("a week later: {:?}, {} runs, {} errors", health.state, health.runs, health.error_count);
    // 169 hours began. 84 of them began with a failure, which was retried ten minutes later.
    assert_eq!((health.runs, health.error_count, health.total_processed), (169 + 84, 84, 169));
    assert_eq!(health.state, ServiceState::Running);
}
