//! Processor time of runs on a runtime of two threads and the real clock: `processor_time (service|loop) (ends|awaits)
//! COUNT` has so many of them run ten times a second for ten seconds. With `awaits`, each run yields once.

use std::time::Duration;

use service_core::prelude::*;

struct Plain {
    runs: u64,
    awaits: bool,
}

#[service(interval = 0.1, discover = false)]
impl Plain {
    async fn update(&mut self) {
        self.runs += 1;
        if self.awaits {
            tokio::task::yield_now().await;
        }
    }
}

async fn hand_written(awaits: bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    let mut runs = 0_u64;
    loop {
        interval.tick().await;
        runs += 1;
        std::hint::black_box(runs);
        if awaits {
            tokio::task::yield_now().await;
        }
    }
}

/// Ticks of this process so far, a hundredth of a second each.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a last part").split(' ').collect();
    fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system")
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, how, count] = arguments.as_slice() else { panic!("(service|loop) (ends|awaits) COUNT") };
    let (awaits, count) = (how == "awaits", count.parse::<usize>().expect("a number"));
    let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
    for n in 0..count {
        // Spread over the interval, as services of a program are.
        tokio::time::sleep(Duration::from_millis(100) / u32::try_from(count).expect("few")).await;
        if what == "service" {
            let handle = registry.register(format!("s{n}"), Plain { runs: 0, awaits }).await.expect("registers");
            handle.start().await.expect("starts");
        } else {
            tokio::spawn(hand_written(awaits));
        }
    }
    let before = ticks();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let spent = (ticks() - before) as f64 / 100.0;
    println!("{what} {how} {count}: {spent:.2} s, {:.2} µs a run", spent / (count as f64 * 100.0) * 1e6);
}
