//! What all contenders share: their arguments, their clock and their figures.
//!
//! A contender is a program that calls [`main`]:
//!
//! - `contender memory COUNT` prints the heap of each loop that waits, in bytes.
//! - `contender run COUNT RUNS` lets each loop run so many times, once a second, for callgrind to count, and prints how
//!   many runs there were. With `RECORD=1` a subscriber records what they trace.
//! - `contender start COUNT` prints how long the start and the stop of so many take, in milliseconds.
//! - `contender idle COUNT SECONDS` prints the processor time of so many that wait, in milliseconds a second.
//! - `contender late EVERY_MS COUNT SECONDS` prints how late runs begin, the median and the 99th percentile in
//!   milliseconds, and how many runs are lost, in percent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

mod late;
mod memory;

/// A way to call [`tick`] again and again.
pub trait Contender: Sized {
    /// Whether its time is that of tokio, which can be paused. Else it reads the wall clock, and its runs are whole
    /// seconds apart.
    const FOLLOWS_TOKIO: bool = true;

    /// Starts so many, which call `tick` with their index at this interval.
    fn start(count: usize, every: Duration) -> impl Future<Output = Self>;

    /// Stops all, and returns when they have ended.
    fn stop(self) -> impl Future<Output = ()>;
}

static RUNS: AtomicU64 = AtomicU64::new(0);
static MOMENTS: OnceLock<Vec<Mutex<Vec<Instant>>>> = OnceLock::new();

/// The work of a run.
pub fn tick(index: usize) {
    RUNS.fetch_add(1, Ordering::Relaxed);
    if let Some(moments) = MOMENTS.get() {
        moments[index].lock().expect("no panic").push(Instant::now());
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// The program of a contender.
pub fn main<C: Contender>() {
    if std::env::var_os("RECORD").is_some() {
        tracing_subscriber::fmt().with_writer(std::io::sink).init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize| arguments.get(n).and_then(|text| text.parse::<usize>().ok()).expect("a number");
    let seconds = |n: usize| Duration::from_secs(number(n) as u64);
    match arguments.first().map(String::as_str) {
        Some("memory") => println!("{}", one_thread::<C>().block_on(memory::each::<C>(number(1)))),
        Some("run") => one_thread::<C>().block_on(run::<C>(number(1), seconds(2))),
        Some("start") => one_thread::<C>().block_on(start_and_stop::<C>(number(1))),
        Some("idle") => two_threads().block_on(idle::<C>(number(1), seconds(2))),
        Some("late") => {
            let every = Duration::from_millis(number(1) as u64);
            two_threads().block_on(late::print::<C>(every, number(2), seconds(3)));
        }
        _ => panic!("memory, run, start, idle or late, and their arguments"),
    }
}

fn one_thread<C: Contender>() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(C::FOLLOWS_TOKIO).build().expect("a runtime")
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn run<C: Contender>(count: usize, time: Duration) {
    let all = C::start(count, SECOND).await;
    tokio::time::sleep(time + SECOND / 2).await;
    println!("{}", RUNS.load(Ordering::Relaxed));
    drop(all);
    // What it stops when it is dropped is not part of the figure.
    std::process::exit(0);
}

/// The start ends with the first run of each, or, if these are not due yet, when the call returns.
async fn start_and_stop<C: Contender>(count: usize) {
    let begun = Instant::now();
    let all = C::start(count, HOUR).await;
    while C::FOLLOWS_TOKIO && RUNS.load(Ordering::Relaxed) < count as u64 {
        tokio::task::yield_now().await;
    }
    let started = begun.elapsed();
    let begun = Instant::now();
    all.stop().await;
    println!("{:.1} {:.1}", started.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64() * 1e3);
}

async fn idle<C: Contender>(count: usize, time: Duration) {
    let all = C::start(count, HOUR).await;
    // The first runs are over then.
    tokio::time::sleep(SECOND * 3).await;
    let before = processor_time();
    tokio::time::sleep(time).await;
    let used = processor_time() - before;
    println!("{:.2}", used.as_secs_f64() * 1e3 / time.as_secs_f64());
    drop(all);
    std::process::exit(0);
}

/// The processor time of all threads of this process.
fn processor_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
    let nanos = tasks.filter_map(|task| {
        let schedstat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
