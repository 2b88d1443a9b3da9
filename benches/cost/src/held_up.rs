//! How much a run that computes for 50 ms before its first await delays the others, on a runtime of two threads:
//! `held_up (service|loop)` prints how late runs begin, in milliseconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use service_core::prelude::*;

const EVERY: Duration = Duration::from_millis(10);
static STARTS: Mutex<Vec<(usize, Instant)>> = Mutex::new(Vec::new());

fn note(id: usize) {
    STARTS.lock().expect("a lock that is not poisoned").push((id, Instant::now()));
}

fn compute() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
}

struct Quick {
    id: usize,
}

#[service(interval = 0.01, discover = false)]
impl Quick {
    async fn update(&mut self) {
        note(self.id);
        tokio::task::yield_now().await;
    }
}

struct Slow;

#[service(interval = 0.1, discover = false)]
impl Slow {
    async fn update(&mut self) {
        compute();
        tokio::task::yield_now().await;
    }
}

async fn quick(id: usize) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        note(id);
        tokio::task::yield_now().await;
    }
}

async fn slow() {
    let mut interval = tokio::time::interval(10 * EVERY);
    loop {
        interval.tick().await;
        compute();
        tokio::task::yield_now().await;
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let what = std::env::args().nth(1).expect("service or loop");
    let mut begun = Vec::new();
    let registry = ServiceRegistry::builder().without_discovered().build().await.expect("builds");
    for id in 0..20 {
        // Spread over the interval, as services of a program are.
        tokio::time::sleep(Duration::from_micros(700)).await;
        begun.push(Instant::now());
        if what == "service" {
            let quick = registry.register(format!("quick{id}"), Quick { id }).await.expect("registers");
            quick.start().await.expect("starts");
        } else {
            tokio::spawn(quick(id));
        }
    }
    if what == "service" {
        let slow = registry.register("slow", Slow).await.expect("registers");
        slow.start().await.expect("starts");
    } else {
        tokio::spawn(slow());
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let starts = std::mem::take(&mut *STARTS.lock().expect("a lock that is not poisoned"));
    let mut last = vec![None; 20];
    let mut gaps: Vec<f64> = Vec::new();
    for (id, at) in &starts {
        if let Some(before) = last[*id].replace(*at) {
            gaps.push(at.duration_since(before).as_secs_f64() * 1e3);
        }
    }
    gaps.sort_by(f64::total_cmp);
    let of = |sorted: &[f64], share: f64| sorted[(sorted.len() as f64 * share) as usize];
    println!(
        "{what}: {} runs; from start to start at the median {:.1}, 90 % {:.1}, 99 % {:.1}, longest {:.1}",
        starts.len(),
        of(&gaps, 0.5),
        of(&gaps, 0.9),
        of(&gaps, 0.99),
        gaps.last().expect("some"),
    );
}
