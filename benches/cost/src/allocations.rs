//! Allocations that a run makes beyond the user's own, over 1,000 runs.

use std::alloc::System;
use std::time::Duration;

use service_core::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Default)]
struct Plain {
    runs: u64,
}

#[service(interval = 1, discover = false)]
impl Plain {
    async fn update(&mut self) {
        self.runs += 1;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tokio::time::pause();
    let bed = TestBed::new();
    let service = bed.start_of::<Plain>().await;
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    let (before, region) = (service.health().runs, Region::new(COUNTING));
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let allocations = region.change().allocations;
    let runs = service.health().runs - before;
    println!("{runs} runs, {allocations} allocations");
}
