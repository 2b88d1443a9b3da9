//! Simulates a cluster from a seed, on virtual time, and checks the whole trace against the contract.
//!
//! Three replicas share an SQLite database in memory and run some of the services of `cast`. The `operator` cuts
//! replicas off from the database for shorter and for longer than a lease, kills, replaces and updates them, stops and
//! pauses services, lets leases expire by a step of the server's clock or by its faster rate, and sets the wall clock.
//! Runs, takeovers and losses form one trace (`world`); each run also adds rows with its epoch through `cx.begin()`,
//! and tasks that outlive their run try to. `invariants` says what must be true of them.
//!
//! `cargo test -p service-tests --test database cluster::simulation` simulates fifty seeds. `CLUSTER_SEEDS=10000`
//! simulates ten thousand, `CLUSTER_SEED=123` only seed 123 (with `CLUSTER_SEEDS=10`, ten from 123 on), and
//! `CLUSTER_MINUTES=600` makes them longer. An error is printed with its seed and the end of the trace;
//! `CLUSTER_TRACE=1` prints all of it.
//!
//! The same seed gives exactly the same trace: all replicas share one connection, which they get in the order in which
//! they wait.
//!
//! Not simulated, because all replicas are in one process and have one clock: a suspended process (a step of the
//! server's clock is the same to the others), a request whose answer never arrives, and a transaction that is open for
//! long: `real` has those. SQLite has one writer, so it does not matter here where in a transaction the lease is
//! checked: `fencing` has that, on PostgreSQL.

mod actor;
mod cast;
mod invariants;
mod operator;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::invariants::Broken;
use self::world::World;

/// How long a simulation is, without the calm minutes at its end.
const MINUTES: u64 = 20;

/// How many lines of the trace an error shows.
const SHOWN: usize = 50;

struct Verdict {
    runs: usize,
    takeovers: u64,
    rows: usize,
    /// Everything that happened.
    lines: Vec<String>,
    broken: Option<String>,
}

fn simulate(seed: u64, minutes: u64) -> Verdict {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime can be built");
    runtime.block_on(async {
        let world = Arc::new(World::new(seed));
        let left = operator::operate(&world, minutes * 60_000).await;
        let trace = world.trace();
        let mut lines = trace.text(u64::MAX, None);
        lines.extend(left.rows.iter().map(|row| format!("{row:?}")));
        lines.extend(left.renewals.iter().map(|renewal| format!("{renewal:?}")));
        if std::env::var_os("CLUSTER_TRACE").is_some() {
            println!("{}", lines.join("\n"));
        }
        let broken = invariants::check(&world.services, &trace, &left).map(|Broken { at, service, why }| {
            let lines = trace.text(at, service);
            format!("{why}\n\nThe trace until then:\n{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"))
        });
        Verdict { runs: trace.runs.len(), takeovers: left.epochs.iter().sum(), rows: left.rows.len(), lines, broken }
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn every_seed_keeps_the_guarantees() {
    let minutes = number("CLUSTER_MINUTES").unwrap_or(MINUTES);
    let first = number("CLUSTER_SEED");
    let count = number("CLUSTER_SEEDS").unwrap_or(if first.is_some() { 1 } else { 50 });
    let first = first.unwrap_or_default();
    let end = first + count;
    let next = AtomicU64::new(first);
    let start = std::time::Instant::now();
    let work = || {
        let (mut runs, mut takeovers, mut rows) = (0, 0, 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return (runs, takeovers, rows, None);
            }
            let verdict = simulate(seed, minutes);
            (runs, takeovers, rows) = (runs + verdict.runs, takeovers + verdict.takeovers, rows + verdict.rows);
            if let Some(why) = verdict.broken {
                // No further seed is begun.
                next.store(end, Ordering::Relaxed);
                return (runs, takeovers, rows, Some((seed, why)));
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let runs: usize = results.iter().map(|(runs, ..)| runs).sum();
    let takeovers: u64 = results.iter().map(|(_, takeovers, ..)| takeovers).sum();
    let rows: usize = results.iter().map(|(_, _, rows, _)| rows).sum();
    println!(
        "{count} seed(s) of {minutes} minutes: {runs} runs, {takeovers} takeovers, {rows} rows in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    if let Some((seed, why)) = results.into_iter().filter_map(|(.., broken)| broken).min() {
        panic!("seed {seed} violates a guarantee; `CLUSTER_SEED={seed}` replays it\n\n{why}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        let [first, second] = [(); 2].map(|()| simulate(seed, MINUTES).lines);
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(line) = differs {
            let since = line.saturating_sub(5);
            panic!("seed {seed} differs:\n{}\n--\n{}", first[since..=line].join("\n"), second[since..=line].join("\n"));
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
