//! A long run on the real clock: `soak [SECONDS]` (an hour by default) has 1,000 services run every 10 ms on two threads.
//!
//! Once a minute, and at the end, it prints the memory of the process, how many runs there were, how many points of the grid were
//! skipped because a run began late, and the mean time from one run to the next. Memory must stay flat. A point is skipped, and not
//! made up for, if the machine is too busy for it; no run is ever lost without that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use service_core::prelude::*;

const SERVICES: u64 = 1_000;
const EVERY: Duration = Duration::from_millis(10);

struct Ticking(Arc<AtomicU64>);

#[service(interval = 0.01, discover = false)]
impl Ticking {
    async fn update(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let seconds = std::env::args().nth(1).map_or(3_600, |text| text.parse().expect("a number of seconds"));
    let runs = Arc::new(AtomicU64::new(0));
    let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
    for n in 0..SERVICES {
        registry.register(format!("s{n}"), Ticking(runs.clone())).start().await.expect("starts");
        // Spread over the interval, as services of a program are.
        tokio::time::sleep(EVERY / 100).await;
    }
    // The first seconds fill caches and buffers.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (begun, runs_before, memory_before) = (Instant::now(), runs.load(Ordering::Relaxed), resident());
    println!("| seconds | memory, KiB | runs | skipped | mean period, ms |\n|---|---|---|---|---|");
    println!("| 0 | {memory_before} | 0 | 0 | |");
    let mut next = 0;
    while next < seconds {
        next = (next + 60).min(seconds);
        tokio::time::sleep_until((begun + Duration::from_secs(next)).into()).await;
        let (elapsed, runs) = (begun.elapsed(), runs.load(Ordering::Relaxed) - runs_before);
        let expected = SERVICES * (elapsed.as_nanos() / EVERY.as_nanos()) as u64;
        let period = elapsed.as_secs_f64() * 1e3 * SERVICES as f64 / runs as f64;
        println!("| {next} | {} | {runs} | {} | {period:.4} |", resident(), expected.saturating_sub(runs));
    }
    let failed = registry.health().services.iter().filter(|service| service.error_count > 0).count();
    let counted: u64 = registry.health().services.iter().map(|service| service.runs).sum();
    registry.shutdown().await.expect("no service has failed");
    assert_eq!(failed, 0, "services have failed");
    let all = runs.load(Ordering::Relaxed);
    assert!(counted <= all && all - counted <= SERVICES * 10, "health counts {counted} runs, and there were {all}");
    println!("memory grew from {memory_before} to {} KiB", resident());
}
