//! What must be true of every trace. It is derived from the contract, and shares nothing with the implementation.

use std::collections::BTreeMap;

use super::cast::{CAST, Schedule};
use super::operator::Left;
use super::world::{Able, Change, End, Ms, Run, Trace, What};

/// A standby polls every second.
const POLL: Ms = 1_000;
/// Polls that failed, and answers, delay a takeover by no more than this.
const SLACK: Ms = 2_500;
/// Rounding: the database has times in milliseconds.
const ROUNDING: Ms = 50;

/// Why a trace is wrong: the moment, the service, and a sentence.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) at: Ms,
    pub(super) service: Option<usize>,
    pub(super) why: String,
}

/// The first violation, if there is one.
pub(super) fn check(services: &[usize], trace: &Trace, left: &Left) -> Option<Broken> {
    let checks = Checks { trace, left };
    let mut broken = Vec::new();
    for &service in services {
        broken.extend(checks.runs_do_not_overlap(service));
        broken.extend(checks.epochs_grow(service));
        broken.extend(checks.commits_are_in_the_order_of_epochs(service));
        broken.extend(checks.fires_are_served(service));
        broken.extend(checks.no_takeover_runs_early(service));
        broken.extend(checks.there_is_a_holder(service));
        broken.extend(checks.leases_stay_lost(service));
    }
    broken.extend(checks.nothing_is_held_at_the_end());
    broken.into_iter().min_by_key(|broken| broken.at)
}

struct Checks<'a> {
    trace: &'a Trace,
    left: &'a Left,
}

/// From when to when a replica held a lease and trusted it.
#[derive(Clone, Copy, Debug)]
struct Hold {
    replica: usize,
    epoch: u64,
    from: Ms,
    to: Ms,
}

fn broken(at: Ms, service: usize, why: String) -> Broken {
    Broken { at, service: Some(service), why: format!("{}: {why}", CAST[service].id) }
}

fn lease(service: usize) -> Ms {
    CAST[service].lease * 1_000
}

impl Checks<'_> {
    fn runs(&self, service: usize) -> impl Iterator<Item = &Run> {
        self.trace.runs.iter().filter(move |run| run.service == service)
    }

    /// The takeovers of a service in the order of their epochs.
    fn holds(&self, service: usize) -> Vec<Hold> {
        let mut changes: Vec<(Ms, usize, Change)> = Vec::new();
        for (at, what) in &self.trace.lines {
            match what {
                What::Lease { service: of, replica, change } if *of == service => {
                    changes.push((*at, *replica, *change))
                }
                _ => {}
            }
        }
        // The events of one replica are in their order.
        changes.sort_by_key(|(at, ..)| *at);
        let (mut holds, mut open) = (Vec::new(), BTreeMap::<usize, Hold>::new());
        for (at, replica, change) in changes {
            if let Some(hold) = open.remove(&replica) {
                holds.push(Hold { to: at, ..hold });
            }
            if let Change::Acquired(epoch) = change {
                open.insert(replica, Hold { replica, epoch, from: at, to: at });
            }
        }
        holds.extend(open.into_values().map(|hold| Hold { to: self.left.end, ..hold }));
        holds.sort_by_key(|hold| (hold.from, hold.epoch));
        holds
    }

    /// A holder may not know at this moment that its lease has expired, because the server's clock stepped.
    fn may_be_wrong(&self, service: usize, acquired: Ms, now: Ms) -> bool {
        let mut steps = self.trace.expired.iter().filter(|(_, of)| *of == service);
        steps.any(|(at, _)| acquired <= *at && now <= at + lease(service))
    }

    /// (a) Two replicas never run a service at the same time.
    fn runs_do_not_overlap(&self, service: usize) -> Option<Broken> {
        let acquired: BTreeMap<u64, Ms> = self.holds(service).iter().map(|hold| (hold.epoch, hold.from)).collect();
        let mut open: Vec<&Run> = Vec::new();
        for run in self.runs(service) {
            open.retain(|open| open.ended.is_none_or(|(ended, ..)| ended > run.began));
            for other in &open {
                let (older, newer) = if other.epoch < run.epoch { (*other, run) } else { (run, *other) };
                let overlap = older.ended.map_or(self.left.end, |(ended, ..)| ended);
                let until = overlap.min(newer.ended.map_or(self.left.end, |(ended, ..)| ended));
                let is_excused = older.replica != newer.replica
                    && older.epoch < newer.epoch
                    && acquired.get(&older.epoch).is_some_and(|from| self.may_be_wrong(service, *from, until));
                if !is_excused {
                    let why = format!(
                        "a run on replica {} (epoch {}, from {} ms) and one on replica {} (epoch {}, from {} ms) overlap until {until} ms",
                        older.replica, older.epoch, older.began, newer.replica, newer.epoch, newer.began
                    );
                    return Some(broken(run.began, service, why));
                }
            }
            open.push(run);
        }
        None
    }

    /// (b) Each takeover has a greater number.
    fn epochs_grow(&self, service: usize) -> Option<Broken> {
        let holds = self.holds(service);
        for pair in holds.windows(2) {
            let [before, after] = pair else { continue };
            if after.epoch <= before.epoch {
                let why = format!("epoch {} follows epoch {}", after.epoch, before.epoch);
                return Some(broken(after.from, service, why));
            }
        }
        let (last, stored) = (holds.last().map_or(0, |hold| hold.epoch), self.left.epochs[service]);
        if stored < last {
            return Some(broken(self.left.end, service, format!("the database has epoch {stored}, which was {last}")));
        }
        let known = |run: &&Run| holds.iter().any(|hold| (hold.epoch, hold.replica) == (run.epoch, run.replica));
        let unknown = self.runs(service).find(|run| !known(run))?;
        Some(broken(unknown.began, service, format!("no takeover has epoch {}", unknown.epoch)))
    }

    /// (c) No commit of an earlier epoch follows one of a later epoch.
    fn commits_are_in_the_order_of_epochs(&self, service: usize) -> Option<Broken> {
        let (mut greatest, mut fires) = (0, Vec::new());
        for row in self.left.rows.iter().filter(|row| row.service == service) {
            if row.epoch < greatest {
                let why = format!("row {} of epoch {} was committed after one of epoch {greatest}", row.seq, row.epoch);
                let at = self.holds(service).iter().find(|hold| hold.epoch == greatest).map_or(0, |hold| hold.from);
                return Some(broken(at, service, why));
            }
            greatest = row.epoch;
            // (d) With `mark_served_in`, once in the database.
            if let Some(fire) = row.fire.filter(|_| CAST[service].marks) {
                if fires.contains(&fire) && !self.wall_clock_passed(fire) {
                    let run = self.runs(service).filter(|run| run.fire == Some(fire)).last();
                    let at = run.map_or(0, |run| run.began);
                    return Some(broken(at, service, format!("fire {fire} was committed twice")));
                }
                fires.push(fire);
            }
        }
        None
    }

    /// The wall clock was set from before this time to after it, or back.
    fn wall_clock_passed(&self, wall: u64) -> bool {
        self.trace.wall_steps.iter().any(|(from, to)| (from.min(to) - 1..=from.max(to) + 1).contains(&wall))
    }

    /// (d) Each fire is served.
    fn fires_are_served(&self, service: usize) -> Option<Broken> {
        let (part, (start, end)) = (&CAST[service], self.left.wall);
        let Schedule::Cron(minutes) = part.schedule else { return None };
        for fire in start..end {
            let is_fire = fire % 60 == 0 && fire / 60 % 60 % minutes == 0;
            if !is_fire || self.wall_clock_passed(fire) {
                continue;
            }
            let by_row = self.left.rows.iter().any(|row| row.service == service && row.fire == Some(fire));
            let by_run = || {
                let mut runs = self.runs(service).filter(|run| run.fire == Some(fire));
                runs.any(|run| matches!(run.ended, Some((_, End::Succeeded, _))))
            };
            if by_row || by_run() || !part.makes_up_all && self.is_superseded(service, fire) {
                continue;
            }
            return Some(broken(self.left.calm, service, format!("fire {fire} was never served")));
        }
        None
    }

    /// No replica could serve the fire before a later one came due, and only the latest is made up.
    fn is_superseded(&self, service: usize, fire: u64) -> bool {
        let Schedule::Cron(minutes) = CAST[service].schedule else { return false };
        let next = (fire + 1..).find(|wall| wall % 60 == 0 && wall / 60 % 60 % minutes == 0).unwrap_or(u64::MAX);
        // Where the wall clock was set, its times say too little about the trace.
        let offset = self.left.wall.0;
        let (from, to) = (fire.saturating_sub(offset) * 1_000, next.saturating_sub(offset) * 1_000);
        let reach = lease(service) + POLL + SLACK + CAST[service].works * 1_000;
        let was_able =
            |able: &Able| able.service == service && able.to.min(to).saturating_sub(able.from.max(from)) > 2 * reach;
        !self.trace.wall_steps.is_empty() || !self.trace.able.iter().any(was_able)
    }

    /// (e) A takeover continues the grid or the delay.
    fn no_takeover_runs_early(&self, service: usize) -> Option<Broken> {
        let every = match CAST[service].schedule {
            Schedule::Interval(seconds) | Schedule::Delay(seconds) => seconds * 1_000,
            _ => return None,
        };
        let is_delay = matches!(CAST[service].schedule, Schedule::Delay(_));
        let holds = self.holds(service);
        // The next run may begin then, as far as the database knows.
        let (mut bound, mut before): (Ms, Option<&Run>) = (0, None);
        for run in self.runs(service) {
            let newer = holds.iter().any(|hold| hold.epoch > run.epoch && hold.from <= run.began);
            if newer {
                continue;
            }
            let is_first = before.is_none_or(|before| before.epoch != run.epoch);
            if is_first && run.began + ROUNDING < bound {
                let why = format!(
                    "epoch {} runs at {} ms on replica {}, although its next run is due at {bound} ms",
                    run.epoch, run.began, run.replica
                );
                return Some(broken(run.began, service, why));
            }
            if is_delay {
                if run.connected {
                    bound = bound.max(run.began + every);
                }
                if let Some((ended, End::Succeeded, true)) = run.ended {
                    bound = bound.max(ended + every);
                }
            } else if run.connected {
                let previous = before.filter(|before| before.epoch == run.epoch);
                let is_retry = previous.is_some_and(|before| !matches!(before.ended, Some((_, End::Succeeded, _))));
                let has_waited =
                    previous.is_none_or(|before| before.ended.is_some_and(|(ended, ..)| ended < run.began));
                let is_on_time = (previous.is_some() || bound == 0) && has_waited && !run.after_pause;
                if !is_retry {
                    let from_run = if is_on_time { run.began + every } else { 0 };
                    bound = from_run.max(if bound == 0 { 0 } else { bound + every });
                }
            }
            before = Some(run);
        }
        None
    }

    /// (f) As long as one replica can hold the lease, one of them takes it in time.
    fn there_is_a_holder(&self, service: usize) -> Option<Broken> {
        let limit = lease(service) + POLL + SLACK;
        let (mut gaps, mut free) = (Vec::new(), 0);
        let mut holds = self.holds(service);
        holds.sort_by_key(|hold| hold.from);
        for hold in &holds {
            if hold.from > free {
                gaps.push((free, hold.from));
            }
            free = free.max(hold.to);
        }
        if self.left.end > free {
            gaps.push((free, self.left.end));
        }
        for (from, to) in gaps {
            for able in self.trace.able.iter().filter(|able| able.service == service) {
                let (from, to) = (from.max(able.from), to.min(able.to));
                if to.saturating_sub(from) > limit {
                    let why = format!(
                        "no replica held the lease from {from} to {to} ms, although replica {} could take it",
                        able.replica
                    );
                    return Some(broken(to, service, why));
                }
            }
        }
        None
    }

    /// (h) A lease that has expired or was released is not renewed: other replicas see it as free, and its holder does
    /// not trust it.
    fn leases_stay_lost(&self, service: usize) -> Option<Broken> {
        let renewals = self.left.renewals.iter().filter(|renewal| renewal.service == service);
        let late = renewals.into_iter().find(|renewal| renewal.at >= renewal.end)?;
        let why = format!(
            "the lease of epoch {} was renewed at {} ms, and had ended at {} ms",
            late.epoch, late.at, late.end
        );
        Some(broken(late.at, service, why))
    }

    /// (g) After a shutdown of all replicas nothing runs, and no lease is valid.
    fn nothing_is_held_at_the_end(&self) -> Option<Broken> {
        let valid = &self.left.valid_leases;
        let running = self.trace.runs.iter().find(|run| run.ended.is_none());
        let why = match running {
            _ if !valid.is_empty() => format!("the leases of {} are still valid", valid.join(", ")),
            Some(run) => format!("a run of {} has not ended", CAST[run.service].id),
            None => return None,
        };
        Some(Broken { at: Ms::MAX, service: None, why })
    }
}
