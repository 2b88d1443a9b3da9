//! `cost memory (service|loop) COUNT` prints live heap bytes for each waiting service;
//! `cost run (service|loop) COUNT RUNS` makes runs on a paused clock, to be counted by callgrind.

use std::time::Duration;

use service_core::prelude::*;
use tokio_util::sync::CancellationToken;

/// Keeps 256 bytes across an await, as real updates do.
#[derive(Default)]
struct Keeping;

#[service(interval = 3600, discover = false)]
impl Keeping {
    async fn update(&mut self) {
        let kept = std::hint::black_box([0_u8; 256]);
        tokio::task::yield_now().await;
        std::hint::black_box(kept);
    }
}

#[derive(Default)]
struct Plain {
    runs: u64,
}

#[service(interval = 1, discover = false)]
impl Plain {
    async fn update(&mut self) {
        self.runs += 1;
        std::hint::black_box(self.runs);
    }
}

#[derive(Default)]
struct Waiting {
    runs: u64,
}

#[service(interval = 3600, discover = false)]
impl Waiting {
    async fn update(&mut self) {
        self.runs += 1;
        std::hint::black_box(self.runs);
    }
}

async fn hand_written(every: Duration, token: CancellationToken) {
    let mut interval = tokio::time::interval(every);
    let mut runs = 0_u64;
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = interval.tick() => {
                runs += 1;
                std::hint::black_box(runs);
            }
        }
    }
}

async fn hand_written_keeping(every: Duration, token: CancellationToken) {
    let mut interval = tokio::time::interval(every);
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = interval.tick() => {
                let kept = std::hint::black_box([0_u8; 256]);
                tokio::task::yield_now().await;
                std::hint::black_box(kept);
            }
        }
    }
}

/// Live heap, as mallinfo2's `uordblks` and `hblkhd` together: what was taken from the system, less what lies free.
fn live_bytes() -> usize {
    use malloc_info::info::{SystemType, TotalType};
    let info = malloc_info::malloc_info().expect("glibc tells");
    let taken: usize = info.system.iter().filter(|s| s.r#type == SystemType::Current).map(|s| s.size).sum();
    let of = |kind| info.total.iter().filter(|t| t.r#type == kind).map(|t| t.size).sum::<usize>();
    taken - of(TotalType::Fast) - of(TotalType::Rest) + of(TotalType::Mmap)
}

async fn start<S: Service + Default>(count: usize) -> ServiceRegistry {
    let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
    for n in 0..count {
        registry.register_of::<S>(&format!("s{n}")).await.expect("registers");
    }
    registry.start().await.expect("starts");
    registry
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
    runtime.block_on(async {
        match arguments[..2] {
            ["memory", what] => {
                let count = number(2);
                // Everything that is made once is made before.
                let warm = start::<Waiting>(1).await;
                let token = CancellationToken::new();
                tokio::time::sleep(Duration::from_secs(1)).await;
                let before = live_bytes();
                let registry = match what {
                    "service" => Some(start::<Waiting>(count).await),
                    "keeping" => Some(start::<Keeping>(count).await),
                    "loop" | "loop-keeping" => {
                        for _ in 0..count {
                            let every = Duration::from_secs(3600);
                            if what == "loop" {
                                tokio::spawn(hand_written(every, token.clone()));
                            } else {
                                tokio::spawn(hand_written_keeping(every, token.clone()));
                            }
                        }
                        None
                    }
                    _ => panic!("service, keeping, loop or loop-keeping"),
                };
                tokio::time::sleep(Duration::from_secs(10)).await;
                let bytes = live_bytes() - before;
                println!("{what} {count}: {} bytes each", bytes / count);
                drop((registry, warm));
            }
            ["run", what] => {
                let (count, runs) = (number(2), number(3));
                let token = CancellationToken::new();
                let registry = if what == "service" {
                    Some(start::<Plain>(count).await)
                } else {
                    for _ in 0..count {
                        tokio::spawn(hand_written(Duration::from_secs(1), token.clone()));
                    }
                    None
                };
                tokio::time::sleep(Duration::from_secs(runs as u64) + Duration::from_millis(500)).await;
                drop(registry);
            }
            _ => panic!("memory or run"),
        }
    });
}
