//! A long run on the real clock: `soak [SECONDS]` (an hour by default) has 1,000 services run every 10 ms on two
//! threads.
//!
//! Once a minute, and at the end, it prints the memory of the process, how many runs there were, how many points of the
//! grid were skipped because a run began late, and the mean time from one run to the next. Memory must stay flat. A
//! point is skipped, and not made up for, if the machine is too busy for it; no run is ever lost without that.
//!
//! `soak SECONDS readers`, with the feature `admin`, serves the admin interface to ten readers besides, which follow
//! `/events` and read `/metrics` every 15 s. They are a process of their own.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use service_core::RegistryBuilder;
use service_core::prelude::*;

const SERVICES: u64 = 1_000;
const EVERY: Duration = Duration::from_millis(10);
const READERS: usize = 10;

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

/// The builder of the registry, which serves the admin interface if there are readers.
fn builder(with_readers: bool) -> RegistryBuilder {
    let builder = ServiceRegistry::builder().without_discovered();
    #[cfg(feature = "admin")]
    let builder = if with_readers { builder.admin("127.0.0.1:0") } else { builder };
    assert!(cfg!(feature = "admin") || !with_readers, "readers need the feature `admin`");
    builder
}

/// Where the readers find the admin interface.
fn address(_registry: &ServiceRegistry) -> Option<String> {
    #[cfg(feature = "admin")]
    return _registry.admin_address().map(|address| address.to_string());
    #[cfg(not(feature = "admin"))]
    None
}

/// Reads until the process is killed, or the answers end.
fn read(address: &str) {
    let request = |path: &str| {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        std::io::copy(&mut stream, &mut std::io::sink())
    };
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let bytes = request("/events");
                eprintln!("the answer to a reader of /events has ended: {bytes:?}");
            });
            scope.spawn(|| {
                while request("/metrics").is_ok() {
                    std::thread::sleep(Duration::from_secs(15));
                }
            });
        }
    });
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, address] = &arguments[..]
        && role == "read"
    {
        return read(address);
    }
    let seconds = arguments.first().map_or(3_600, |text| text.parse().expect("a number of seconds"));
    let with_readers = arguments.get(1).is_some_and(|word| word == "readers");
    let runs = Arc::new(AtomicU64::new(0));
    let registry = builder(with_readers).build().await.expect("builds");
    for n in 0..SERVICES {
        registry.register(format!("s{n}"), Ticking(runs.clone())).start().await.expect("starts");
        // Spread over the interval, as services of a program are.
        tokio::time::sleep(EVERY / 100).await;
    }
    let mut readers = address(&registry).filter(|_| with_readers).map(|address| {
        let program = std::env::current_exe().expect("this program");
        Command::new(program).args(["read", &address]).spawn().expect("the readers")
    });
    // The first seconds fill caches and buffers.
    tokio::time::sleep(Duration::from_secs(if with_readers { 60 } else { 5 })).await;
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
    if let Some(readers) = &mut readers {
        assert!(readers.try_wait().expect("their state").is_none(), "the readers have ended");
        readers.kill().expect("they run");
        readers.wait().expect("they have ended");
    }
    let failed = registry.health().services.iter().filter(|service| service.error_count > 0).count();
    let counted: u64 = registry.health().services.iter().map(|service| service.runs).sum();
    registry.shutdown().await.expect("no service has failed");
    assert_eq!(failed, 0, "services have failed");
    let all = runs.load(Ordering::Relaxed);
    assert!(counted <= all && all - counted <= SERVICES * 10, "health counts {counted} runs, and there were {all}");
    println!("memory grew from {memory_before} to {} KiB", resident());
}
