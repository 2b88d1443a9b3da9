//! What services cost beside loops that are written by hand, on a paused clock.
//!
//! `cost counts` compares the instructions of a run with `counts.txt`; with `--update` it writes them there.
//! `cost table [BUILD…]` prints all figures; each further build of this program gets a column. It calls the others:
//! `cost memory (service|keeping|loop|loop-keeping) COUNT` prints the live heap of each one that waits, in bytes.
//! `cost run (service|admin|loop) COUNT RUNS` lets each of them run so many times, for callgrind to count instructions. `admin`,
//! with the feature of the same name, serves the admin interface beside the services.
//! `cost start (service|loop) COUNT` starts and stops them, and prints how long both took, in milliseconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use service_core::RegistryBuilder;
use service_core::prelude::*;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

mod counts;
mod table;

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

/// Reports its first run, because the start of the loops waits for it.
async fn hand_written_started(token: CancellationToken, started: Arc<Semaphore>) {
    let mut interval = tokio::time::interval(Duration::from_secs(3600));
    let mut runs = 0_u64;
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = interval.tick() => {
                runs += 1;
                std::hint::black_box(runs);
                if runs == 1 {
                    started.add_permits(1);
                }
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
    let info = malloc_info::malloc_info().expect("the statistics of glibc");
    let taken: usize = info.system.iter().filter(|s| s.r#type == SystemType::Current).map(|s| s.size).sum();
    let of = |kind| info.total.iter().filter(|t| t.r#type == kind).map(|t| t.size).sum::<usize>();
    taken - of(TotalType::Fast) - of(TotalType::Rest) + of(TotalType::Mmap)
}

async fn register<S: Service + Default>(builder: RegistryBuilder, count: usize) -> ServiceRegistry {
    let registry = builder.without_discovered().build().await.expect("builds");
    for n in 0..count {
        registry.register_of::<S>(&format!("s{n}")).await.expect("registers");
    }
    registry
}

async fn start<S: Service + Default>(builder: RegistryBuilder, count: usize) -> ServiceRegistry {
    let registry = register::<S>(builder, count).await;
    registry.start().await.expect("starts");
    registry
}

/// Returns how long the start and the stop of services take.
async fn start_and_stop_services(count: usize) -> (Duration, Duration) {
    let registry = register::<Waiting>(ServiceRegistry::builder(), count).await;
    let begun = Instant::now();
    registry.start().await.expect("starts");
    let started = begun.elapsed();
    let begun = Instant::now();
    registry.stop_all().await;
    (started, begun.elapsed())
}

/// Returns the same for loops that are written by hand.
async fn start_and_stop_loops(count: usize) -> (Duration, Duration) {
    let (token, started) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
    let begun = Instant::now();
    let loops: Vec<_> =
        (0..count).map(|_| tokio::spawn(hand_written_started(token.clone(), started.clone()))).collect();
    let all = u32::try_from(count).expect("a number of tasks");
    let _all = started.acquire_many(all).await.expect("it is not closed");
    let started = begun.elapsed();
    let begun = Instant::now();
    token.cancel();
    for one in loops {
        one.await.expect("it does not panic");
    }
    (started, begun.elapsed())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["table", builds @ ..] = &arguments[..] {
        return table::print(builds);
    }
    if let ["counts", options @ ..] = &arguments[..] {
        let is_well = counts::compare(options == ["--update"]);
        std::process::exit(i32::from(!is_well));
    }
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
    runtime.block_on(async {
        match arguments[..] {
            ["memory", what, _] => {
                let count = number(2);
                // Everything that is made once is made before.
                let warm = start::<Waiting>(ServiceRegistry::builder(), 1).await;
                let token = CancellationToken::new();
                tokio::time::sleep(Duration::from_secs(1)).await;
                let before = live_bytes();
                let registry = match what {
                    "service" => Some(start::<Waiting>(ServiceRegistry::builder(), count).await),
                    "keeping" => Some(start::<Keeping>(ServiceRegistry::builder(), count).await),
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
                println!("{}", bytes / count);
                drop((registry, warm));
            }
            ["run", what, _, _] => {
                let (count, runs) = (number(2), number(3));
                let token = CancellationToken::new();
                let registry = match what {
                    "service" => Some(start::<Plain>(ServiceRegistry::builder(), count).await),
                    #[cfg(feature = "admin")]
                    "admin" => Some(start::<Plain>(ServiceRegistry::builder().admin("127.0.0.1:0"), count).await),
                    "loop" => {
                        for _ in 0..count {
                            tokio::spawn(hand_written(Duration::from_secs(1), token.clone()));
                        }
                        None
                    }
                    _ => panic!("service, admin (with the feature) or loop"),
                };
                tokio::time::sleep(Duration::from_secs(runs as u64) + Duration::from_millis(500)).await;
                drop(registry);
            }
            ["start", what, _] => {
                let (started, stopped) = match what {
                    "service" => start_and_stop_services(number(2)).await,
                    "loop" => start_and_stop_loops(number(2)).await,
                    _ => panic!("service or loop"),
                };
                println!("{:.1} {:.1}", started.as_secs_f64() * 1000.0, stopped.as_secs_f64() * 1000.0);
            }
            _ => panic!("table, memory, run or start, and their arguments"),
        }
    });
}
