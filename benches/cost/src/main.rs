//! What a service costs, on a paused clock.
//!
//! `cost counts` compares the instructions of a run with `counts.txt`; with `--update` it writes them there.
//! `cost memory (service|keeping) COUNT` prints the live heap of each one that waits, in bytes.
//! `cost run (service|admin) COUNT RUNS` lets each of them run so many times, for callgrind to count instructions.
//! `admin`, with the feature of the same name, serves the admin interface beside the services.

use std::time::Duration;

use service_core::RegistryBuilder;
use service_core::prelude::*;

mod counts;

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

/// Live heap, as mallinfo2's `uordblks` and `hblkhd` together: what was taken from the system, less what lies free.
fn live_bytes() -> usize {
    use malloc_info::info::{SystemType, TotalType};
    let info = malloc_info::malloc_info().expect("the statistics of glibc");
    let taken: usize = info.system.iter().filter(|s| s.r#type == SystemType::Current).map(|s| s.size).sum();
    let of = |kind| info.total.iter().filter(|t| t.r#type == kind).map(|t| t.size).sum::<usize>();
    taken - of(TotalType::Fast) - of(TotalType::Rest) + of(TotalType::Mmap)
}

async fn start<S: Service + Default>(builder: RegistryBuilder, count: usize) -> ServiceRegistry {
    let registry = builder.without_discovered().build().await.expect("builds");
    for n in 0..count {
        registry.register_of::<S>(&format!("s{n}")).await.expect("registers");
    }
    registry.start().await.expect("starts");
    registry
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
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
                // Everything that is made once is made before.
                let warm = start::<Waiting>(ServiceRegistry::builder(), 1).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                let before = live_bytes();
                let (builder, count) = (ServiceRegistry::builder(), number(2));
                let registry = match what {
                    "service" => start::<Waiting>(builder, count).await,
                    "keeping" => start::<Keeping>(builder, count).await,
                    _ => panic!("service or keeping"),
                };
                tokio::time::sleep(Duration::from_secs(10)).await;
                println!("{}", (live_bytes() - before) / count);
                drop((registry, warm));
            }
            ["run", what, _, _] => {
                let (builder, count, runs) = (ServiceRegistry::builder(), number(2), number(3));
                let registry = match what {
                    "service" => start::<Plain>(builder, count).await,
                    #[cfg(feature = "admin")]
                    "admin" => start::<Plain>(builder.admin("127.0.0.1:0"), count).await,
                    _ => panic!("service, or admin (with the feature)"),
                };
                tokio::time::sleep(Duration::from_secs(runs as u64) + Duration::from_millis(500)).await;
                drop(registry);
            }
            _ => panic!("counts, memory or run, and their arguments"),
        }
    });
}
