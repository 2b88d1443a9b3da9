//! `run` returns nothing or a result of nothing: its items are reported while it runs.

use service_core::prelude::*;

#[derive(Default)]
struct Feed;

#[service]
impl Feed {
    async fn run(&mut self) -> Result<Outcome> {
        Ok(Outcome::processed(1))
    }
}

#[service(long_running = true)]
async fn follow() -> u64 {
    1
}

fn main() {}
