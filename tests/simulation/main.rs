//! Simulates a month of fifty services from a seed, and checks every event against a model of the contract.
//!
//! `cargo test -p service-tests --test simulation` simulates fifty months. `SIM_SEEDS=1000` simulates a thousand,
//! `SIM_SEED=123` only month 123 (with `SIM_SEEDS=10`, ten months from 123 on), and `SIM_DAYS=3` makes months shorter.
//! An error is printed with its seed and the end of the trace. The same seed gives the same error every time.
//!
//! The services (`actor`, `blocker`, `streamer`) and the operator (`operator`) choose their actions by random numbers
//! from the seed. Their reports and the registry's events form one trace (`trace`, `world`). `model` knows from the
//! contract alone what the trace may contain. Blocking runs, which are on threads, take turns (`stage`). Cron schedules
//! fire by a calendar of the model's own (`fires`), in months in which DST begins or ends.
//!
//! Not simulated, because a month with them would not replay exactly: overrides in tables, which need the time of a
//! database; a wall clock that is set; blocking `cleanup`s, whose beginning is not an event; and blocking `run`s.

mod actor;
mod blocker;
mod cast;
mod fires;
mod found;
mod member;
mod model;
mod operator;
mod plan;
mod quiet;
mod stage;
mod streamer;
mod trace;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use service_core::RegistryBuilder;
use service_core::prelude::*;

use crate::actor::Actor;
use crate::blocker::Blocker;
use crate::cast::{FIRST_INSTANCE, HOUR, Origin, pick};
use crate::member::Member;
use crate::model::Tally;
use crate::quiet::hush;
use crate::stage::Hooks;
use crate::streamer::Streamer;
use crate::world::{Verdict, World};

/// When months begin, in seconds since 1970. In the first month DST does not change; in the others it begins or ends in
/// New York, Berlin or Lord Howe, or in two of them.
const MONTHS: [i64; 5] = [
    1_767_225_600, // 2026-01-01 00:00 UTC
    1_771_545_600, // 2026-02-20 00:00 UTC
    1_773_111_600, // 2026-03-10 03:00 UTC
    1_789_862_400, // 2026-09-20 00:00 UTC
    1_791_590_400, // 2026-10-10 00:00 UTC
];

/// Simulates one month, or this many days.
fn simulate(seed: u64, days: u64) -> Verdict {
    let hooks = Hooks::default();
    hooks.runtime().block_on(live(seed, days, &hooks))
}

async fn live(seed: u64, days: u64, hooks: &Hooks) -> Verdict {
    let mut rng = Rng::with_seed(seed);
    let start = *pick(&mut rng, &MONTHS);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(start.unsigned_abs());
    let cast = cast::cast(&mut rng, start, days);
    let end = days * 24 * HOUR;
    let world = World::new(cast, hooks.stage(), wall, &mut rng, end);
    let _opened = hooks.open(&world);
    let bed = TestBed::at(wall).seed(seed).state(world.clone()).with(|mut builder| {
        let api = world.clone();
        builder = builder.probe(cast::API, Duration::from_secs(600), async move || api.check_api());
        for (service, part) in world.cast.iter().enumerate() {
            builder = match (part.blocking, part.long) {
                // One registration stands for all of them.
                _ if service == FIRST_INSTANCE => builder.service_of::<Member>(Member::ID),
                _ if service > FIRST_INSTANCE => builder,
                (_, Some(_)) => add(builder, &world, service, Streamer),
                (true, None) => add(builder, &world, service, Blocker),
                (false, None) => add(builder, &world, service, |actor| actor),
            };
            for (key, value) in part.settings(&world.cast) {
                builder = builder.set(key, value);
            }
        }
        builder
    });
    world.open(&bed.services().await);
    operator::operate(&world, &mut rng, end).await;
    world.verdict()
}

fn add<S: Service>(
    builder: RegistryBuilder,
    world: &Arc<World>,
    service: usize,
    wrap: impl Fn(Actor) -> S + Send + Sync + 'static,
) -> RegistryBuilder {
    let part = &world.cast[service];
    match part.origin {
        Origin::Configure => builder.service_of::<S>(&part.id),
        Origin::ReadyMade => builder.service(&part.id, wrap(Actor::new(world, service))),
        Origin::Closure => {
            let world = world.clone();
            builder.service_fn(&part.id, move || wrap(Actor::by_closure(&world, service)))
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn every_month_follows_the_contract() {
    hush();
    let days = number("SIM_DAYS").unwrap_or(30);
    let first = number("SIM_SEED");
    let count = number("SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { 50 });
    let first = first.unwrap_or_default();
    let (next, lines, hash, tally) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Tally::default()));
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
                        *tally.lock().expect("adding does not panic") += verdict.tally;
                        lines.fetch_add(verdict.lines, Ordering::Relaxed);
                        hash.fetch_xor(verdict.hash, Ordering::Relaxed);
                        if let Some(why) = verdict.broken {
                            // No further seed is begun.
                            next.store(first + count, Ordering::Relaxed);
                            failed.push((seed, why));
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker does not panic"))
            .min_by_key(|(seed, _)| *seed)
    });
    let (lines, hash, seconds) = (lines.into_inner(), hash.into_inner(), start.elapsed().as_secs_f64());
    let Tally { runs, by_cron, blocking, strayed, long, given_up, excused } =
        tally.into_inner().expect("adding does not panic");
    println!("{count} seed(s) of {days} days: {runs} runs, {lines} lines in {seconds:.1} s");
    println!(
        "{by_cron} runs by cron schedules, {long} long runs, {given_up} runs given up, {excused} failures excused, {blocking} blocking runs, of which \
         {strayed} timed out or were aborted; hash {hash:016x}"
    );
    if let Some((seed, why)) = failed {
        panic!("seed {seed} violates the contract; `SIM_SEED={seed}` replays it\n\n{why}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    hush();
    let mut tally = Tally::default();
    let traces: Vec<_> = (7..11)
        .map(|seed| {
            let (once, twice) = (simulate(seed, 10), simulate(seed, 10));
            println!("trace of seed {seed}: {:016x}, {} lines, {:?}", once.hash, once.lines, once.tally);
            assert_eq!((once.hash, once.lines), (twice.hash, twice.lines), "seed {seed}");
            tally += once.tally;
            once.hash
        })
        .collect();
    let Tally { by_cron, blocking, given_up, .. } = tally;
    assert!(
        by_cron > 0 && blocking > 0 && given_up > 0,
        "cron and blocking runs, which are hardest to replay, occur in one of the seeds: {tally:?}"
    );
    assert_ne!(traces[0], traces[1]);
}
