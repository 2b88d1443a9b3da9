//! [`World`]: what happened in all replicas, in one trace. The services and the operator write it; `invariants` reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::cast::CAST;

/// How many services a simulation has.
const SERVICES: usize = 3;

/// Milliseconds of virtual time since the start.
pub(super) type Ms = u64;

pub(super) fn millis(duration: Duration) -> Ms {
    u64::try_from(duration.as_millis()).expect("a simulation is shorter than that")
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Succeeded,
    Failed,
    /// Its future was dropped: the lease was lost, a stop did not wait, or the replica was killed.
    Dropped,
}

/// One run of a service.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) service: usize,
    pub(super) replica: usize,
    pub(super) epoch: u64,
    pub(super) began: Ms,
    /// The replica reached the database when the run began.
    pub(super) connected: bool,
    /// The fire that it serves, in seconds since 1970.
    pub(super) fire: Option<u64>,
    /// Set when it has ended, with whether the replica reached the database then.
    pub(super) ended: Option<(Ms, End, bool)>,
    /// A pause of the service ended at this moment, or later than the run before began.
    pub(super) after_pause: bool,
}

/// What happened to the lease of a service on one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Change {
    Acquired(u64),
    Lost,
    Stopped,
}

/// A committed row of the ledger.
#[derive(Clone, Debug, Hash)]
pub(super) struct Row {
    pub(super) service: usize,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) fire: Option<u64>,
}

/// A lease was renewed.
#[derive(Clone, Debug, Hash)]
pub(super) struct Renewal {
    pub(super) service: usize,
    pub(super) epoch: u64,
    pub(super) at: Ms,
    /// When it would have ended without.
    pub(super) end: Ms,
}

/// From when to when a replica could hold the lease of a service: it lives, reaches the database, and the service is
/// started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Able {
    pub(super) service: usize,
    pub(super) replica: usize,
    pub(super) from: Ms,
    pub(super) to: Ms,
}

#[derive(Debug)]
pub(super) enum What {
    Begins(usize),
    Ends(usize, End),
    Lease { service: usize, replica: usize, change: Change },
    Told(String),
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) lines: Vec<(Ms, What)>,
    /// In the order of their beginning.
    pub(super) runs: Vec<Run>,
    pub(super) able: Vec<Able>,
    /// The server's clock stepped forward at these moments, so that the leases of these services expired.
    pub(super) expired: Vec<(Ms, usize)>,
    /// The wall clock was set from one time to another, in seconds since 1970.
    pub(super) wall_steps: Vec<(u64, u64)>,
    /// Since when a replica can hold the lease of a service.
    able_since: BTreeMap<(usize, usize), Ms>,
    pub(super) resumed: BTreeMap<usize, Ms>,
    seq: u64,
    cut_off: Vec<usize>,
    dead: Vec<usize>,
}

/// What all replicas of one simulation share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    /// The services of this simulation.
    pub(super) services: Vec<usize>,
    began: Instant,
    trace: Mutex<Trace>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let services = Rng::with_seed(seed).choose_multiple(0..CAST.len(), SERVICES);
        Self { seed, services, began: Instant::now(), trace: Mutex::default() }
    }

    pub(super) fn now(&self) -> Ms {
        millis(self.began.elapsed())
    }

    pub(super) fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().expect("no check panics while it is locked")
    }

    /// The choices of one run. They do not depend on what other services do at the same moment.
    pub(super) fn rng(&self, service: usize, replica: usize, number: u64) -> Rng {
        let mut hasher = DefaultHasher::new();
        (self.seed, service, replica, number).hash(&mut hasher);
        Rng::with_seed(hasher.finish())
    }

    /// Writes a line about what the operator does.
    pub(super) fn tell(&self, line: impl fmt::Display) {
        let now = self.now();
        self.trace().lines.push((now, What::Told(line.to_string())));
    }

    pub(super) fn lease_changed(&self, at: Ms, service: usize, replica: usize, change: Change) {
        self.trace().lines.push((at, What::Lease { service, replica, change }));
    }

    /// A run begins. Its end is written when the value is dropped.
    pub(super) fn begins(&self, service: usize, replica: usize, epoch: u64, fire: Option<u64>) -> Running<'_> {
        let now = self.now();
        let mut trace = self.trace();
        let connected = !trace.cut_off.contains(&replica);
        let previous = trace.runs.iter().rev().find(|run| run.service == service).map_or(0, |run| run.began);
        let after_pause = trace.resumed.get(&service).is_some_and(|resumed| *resumed >= previous);
        trace.runs.push(Run { service, replica, epoch, began: now, connected, fire, ended: None, after_pause });
        let run = trace.runs.len() - 1;
        trace.lines.push((now, What::Begins(run)));
        Running { world: self, run, end: End::Dropped }
    }

    pub(super) fn next_seq(&self) -> u64 {
        let mut trace = self.trace();
        trace.seq += 1;
        trace.seq
    }

    pub(super) fn cut_off(&self, replica: usize, is_cut_off: bool) {
        let mut trace = self.trace();
        trace.cut_off.retain(|known| *known != replica);
        if is_cut_off {
            trace.cut_off.push(replica);
        }
    }

    pub(super) fn killed(&self, replica: usize) {
        self.trace().dead.push(replica);
    }

    pub(super) fn is_dead(&self, replica: usize) -> bool {
        self.trace().dead.contains(&replica)
    }

    /// From now on a replica can hold the lease of a service, or cannot.
    pub(super) fn set_able(&self, service: usize, replica: usize, is_able: bool) {
        let now = self.now();
        let mut trace = self.trace();
        match (trace.able_since.get(&(service, replica)).copied(), is_able) {
            (None, true) => _ = trace.able_since.insert((service, replica), now),
            (Some(from), false) => {
                trace.able_since.remove(&(service, replica));
                trace.able.push(Able { service, replica, from, to: now });
            }
            _ => {}
        }
    }
}

/// A run in progress.
pub(super) struct Running<'a> {
    world: &'a World,
    run: usize,
    end: End,
}

impl Running<'_> {
    pub(super) fn ends(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let now = self.world.now();
        let mut trace = self.world.trace();
        let connected = !trace.cut_off.contains(&trace.runs[self.run].replica);
        trace.runs[self.run].ended = Some((now, self.end, connected));
        trace.lines.push((now, What::Ends(self.run, self.end)));
    }
}

impl Trace {
    fn line(&self, (at, what): &(Ms, What)) -> String {
        let line = match what {
            What::Begins(run) => {
                let Run { service, replica, epoch, fire, .. } = &self.runs[*run];
                let fire = fire.map(|fire| format!(", fire {fire}")).unwrap_or_default();
                format!("{} begins on replica {replica} (epoch {epoch}{fire})", CAST[*service].id)
            }
            What::Ends(run, end) => {
                let Run { service, replica, epoch, .. } = &self.runs[*run];
                format!("{} ends on replica {replica} (epoch {epoch}): {end:?}", CAST[*service].id)
            }
            What::Lease { service, replica, change } => {
                format!("{} on replica {replica}: {change:?}", CAST[*service].id)
            }
            What::Told(line) => format!("== {line}"),
        };
        format!("{:>9.3} {line}", Duration::from_millis(*at).as_secs_f64())
    }

    /// The lines up to a moment, about one service if it is given, and about the operator.
    pub(super) fn text(&self, until: Ms, service: Option<usize>) -> Vec<String> {
        let is_shown = |what: &What| match (what, service) {
            (_, None) | (What::Told(_), _) => true,
            (What::Begins(run) | What::Ends(run, _), Some(service)) => self.runs[*run].service == service,
            (What::Lease { service: of, .. }, Some(service)) => *of == service,
        };
        let mut lines: Vec<_> = self.lines.iter().filter(|(at, what)| *at <= until && is_shown(what)).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().map(|line| self.line(line)).collect()
    }
}
