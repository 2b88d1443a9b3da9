//! A month in the life of fifty services, simulated from a seed, and checked line by line.
//!
//! `cargo test -p service-tests --test simulation` lives through fifty months. `SIM_SEEDS=1000` makes it a thousand,
//! `SIM_SEED=123` lives through month 123 only, `SIM_DAYS=3` makes months shorter. What goes wrong is printed with its
//! seed and the end of its trace; the same seed goes wrong in the same way every time.
//!
//! The services (`actor`) and the operator (`operator`) draw what they do from the seed. What they say and what the
//! registry tells stands in one trace (`trace`, `world`), and `model` knows from the contract alone what may stand there.

mod actor;
mod cast;
mod found;
mod model;
mod operator;
mod plan;
mod trace;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use service_core::prelude::*;

use crate::actor::{Actor, PANIC};
use crate::cast::{HOUR, Origin};
use crate::world::{Verdict, World};

/// One month, or as long as it is said.
fn simulate(seed: u64, days: u64) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(live(seed, days))
}

async fn live(seed: u64, days: u64) -> Verdict {
    const NEW_YEAR_2026: Duration = Duration::from_secs(1_767_225_600);
    let wall = SystemTime::UNIX_EPOCH + NEW_YEAR_2026;
    let mut rng = Rng::with_seed(seed);
    let cast = cast::cast(&mut rng);
    let world = World::new(cast, wall, &mut rng);
    let bed = TestBed::at(wall).seed(seed).state(world.clone()).with(|mut builder| {
        for (service, part) in world.cast.iter().enumerate() {
            builder = match part.origin {
                Origin::Configure => builder.service_of::<Actor>(&part.id),
                Origin::Closure => {
                    let world = world.clone();
                    builder.service_fn(&part.id, move || Actor::by_closure(&world, service))
                }
                Origin::ReadyMade => builder.service(&part.id, Actor::new(&world, service)),
            };
            for (key, value) in part.settings(&world.cast) {
                builder = builder.set(key, value);
            }
        }
        builder
    });
    world.open(&bed.services().await);
    operator::operate(&world, &mut rng, days * 24 * HOUR).await;
    world.verdict()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Scripted panics are no news.
fn hush() {
    static HUSHED: std::sync::Once = std::sync::Once::new();
    HUSHED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some(PANIC) {
                usual(info);
            }
        }));
    });
}

#[test]
fn every_month_goes_by_the_contract() {
    hush();
    let days = number("SIM_DAYS").unwrap_or(30);
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIM_SEEDS").unwrap_or(50)),
    };
    let (next, runs, lines) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let start = std::time::Instant::now();
    let failed = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count {
                            return failed;
                        }
                        let verdict = simulate(seed, days);
                        runs.fetch_add(verdict.runs, Ordering::Relaxed);
                        lines.fetch_add(verdict.lines, Ordering::Relaxed);
                        if let Some(why) = verdict.broken {
                            // Later seeds are not begun any more.
                            next.store(first + count, Ordering::Relaxed);
                            failed.push((seed, why));
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker goes on")).min_by_key(|(seed, _)| *seed)
    });
    let (runs, lines, seconds) = (runs.into_inner(), lines.into_inner(), start.elapsed().as_secs_f64());
    println!("{count} seed(s) of {days} days: {runs} runs, {lines} lines in {seconds:.1} s");
    if let Some((seed, why)) = failed {
        panic!("seed {seed} goes wrong; `SIM_SEED={seed}` replays it\n\n{why}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    hush();
    let (once, twice, other) = (simulate(7, 10), simulate(7, 10), simulate(8, 10));
    println!("trace of seed 7: {:016x}, {} lines", once.hash, once.lines);
    assert_eq!((once.hash, once.lines), (twice.hash, twice.lines));
    assert_ne!(once.hash, other.hash);
}
