//! The model of one service: its requests, and what it must have done by now. `lines` and `runs` check what it may do;
//! `away` models a blocking run that timed out or was aborted and still runs.

mod away;
mod lines;
mod needs;
mod runs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use service_core::prelude::*;

use super::{Checked, must};
use crate::cast::{Origin, Part, Schedule};
use crate::plan::{Kind, Timetable, Window, grant, retry_wait};
use crate::trace::{Advice, Answer, Ask, Decision, How, Line, Ms, What};
use away::Stray;
use needs::Api;

/// The model of one service.
pub(crate) struct One {
    pub(super) part: Part,
    pub(super) registered: bool,
    pub(super) registrations: u32,
    /// It is being unregistered: if it is started in the meantime, it is stopped again.
    leaving: bool,
    pub(super) state: ServiceState,
    pub(super) paused: bool,
    schedule: Schedule,
    retry_delay: Ms,
    /// Its ready-made instance has been taken.
    used_up: bool,
    /// Since it was registered.
    pub(super) runs: u64,
    pub(super) errors: u64,
    pub(super) processed: u64,
    pub(super) failed_items: u64,
    pub(super) last_success: Option<Ms>,
    pub(super) restarts: u64,
    pub(super) last_run: Option<Ms>,
    pub(super) last_duration: Option<Ms>,
    pub(super) last_error: Option<String>,
    /// In the current or last incarnation.
    pub(super) failures: u32,
    /// Failures in a row, also those that were ignored.
    pub(super) since_success: u32,
    pub(super) degraded: bool,
    /// A run was given up since the last success.
    pub(super) given_up: bool,
    /// The number of the run that was given up, and its failures, until the event comes.
    unreported: Option<(u64, u32)>,
    pub(super) all_runs: u64,
    pub(super) by_cron: u64,
    /// Blocking runs that timed out or were aborted, and continued.
    pub(super) strayed: u64,
    pub(super) all_given_up: u64,
    pub(super) excused: u64,
    api: Api,
    /// Its work is done, and the registry shuts down when it has stopped.
    shuts_down: bool,
    pub(super) lives: u32,
    pub(super) failed_life: Option<u32>,
    start_wanted: Option<Ms>,
    pub(super) life: Option<Life>,
    pub(super) last_line: Ms,
    /// Instances that were made but have not become the service's instance; and those of them that were unregistered.
    made: BTreeSet<u32>,
    forgotten: BTreeSet<u32>,
    /// Instances whose blocking runs still run after the end of their incarnation.
    strays: BTreeMap<u32, Stray>,
    permits: VecDeque<Ms>,
    reports: BTreeMap<u32, Option<Answer>>,
}

/// An incarnation: from `Starting` to `Stopped` or `Failed`.
pub(crate) struct Life {
    /// When a stop was requested, and whether the request is in the trace.
    pub(super) stop: Option<Ms>,
    known: bool,
    hurried: bool,
    /// It waits for its dependencies.
    waits: bool,
    tried: bool,
    /// Its first instance has been built.
    pub(super) up: bool,
    /// It was ready, for the services that depend on it.
    pub(super) ready: bool,
    /// It has left `Starting`.
    left: bool,
    /// A long run was requested to end, because of a pause or a fresh instance.
    told: Option<Ms>,
    timetable: Option<Timetable>,
    building: Option<Ms>,
    configured: Option<How>,
    pub(super) instance: Option<Instance>,
    pub(super) run: Option<Run>,
    plan: Option<Window>,
    asked: Option<Ms>,
    /// When it was woken, and not served since.
    woken: Option<Ms>,
    /// The wake-up that the instance is built for.
    builds_for: Option<Ms>,
    /// When its start began; its dependencies were up.
    began: Ms,
    waiting: Vec<u32>,
    /// Since when nothing prevents what is due.
    free: Ms,
    /// The decision that is not carried out yet.
    verdict: Option<Verdict>,
    pub(super) retrying: bool,
    /// When the work began whose failure it retries.
    failed_began: Ms,
    /// The end of an outage ends its wait.
    awaits_api: bool,
    /// It has ended, but a blocking run still holds the instance.
    api_is_back: bool,
    renew: bool,
    aborted: bool,
    granted: Vec<Ms>,
}

pub(crate) struct Instance {
    serial: u32,
    broken: bool,
    pub(super) cleaning: Option<Ms>,
    dropped: bool,
    /// A blocking run that timed out still holds it.
    pub(super) away: bool,
    /// Another instance must replace it.
    discard: bool,
}

impl Instance {
    fn new(serial: u32) -> Self {
        Self { serial, broken: false, cleaning: None, dropped: false, away: false, discard: false }
    }
}

pub(crate) struct Run {
    number: u64,
    started: Ms,
    inside: bool,
    how: Option<How>,
    on_failure: Option<(Decision, Option<Decision>)>,
    waiting: Vec<u32>,
    /// For a long run: when it last reported something, how many items, and whether it has become stable.
    reported: Ms,
    items: (u64, u64),
    stable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry(Ms),
    Regular,
    /// Whether the run had begun; else no instance could be built for it.
    GiveUp {
        ran: bool,
    },
    Stop,
    Restart,
    /// Failed, but `reset` was called from within the run.
    Renew,
    Fail,
}

impl One {
    pub(super) fn new(part: &Part) -> Self {
        Self {
            part: part.clone(),
            registered: true,
            registrations: 1,
            leaving: false,
            state: ServiceState::Created,
            paused: false,
            schedule: part.schedule,
            retry_delay: part.retry_delay,
            used_up: false,
            runs: 0,
            errors: 0,
            processed: 0,
            failed_items: 0,
            last_success: None,
            restarts: 0,
            last_run: None,
            last_duration: None,
            last_error: None,
            failures: 0,
            since_success: 0,
            degraded: false,
            given_up: false,
            unreported: None,
            all_runs: 0,
            by_cron: 0,
            strayed: 0,
            all_given_up: 0,
            excused: 0,
            api: Api::default(),
            shuts_down: false,
            lives: 0,
            failed_life: None,
            start_wanted: None,
            life: None,
            last_line: 0,
            made: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            strays: BTreeMap::new(),
            permits: VecDeque::new(),
            reports: BTreeMap::new(),
        }
    }

    fn life(&mut self) -> Result<&mut Life, String> {
        self.life.as_mut().ok_or_else(|| "it does not run".to_owned())
    }

    // ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn may_start(&self) -> bool {
        self.registered && matches!(self.state, ServiceState::Created | ServiceState::Stopped) && !self.used_up
    }

    /// Whether a run is given up at the limit, instead of the service.
    fn gives_up(&self) -> bool {
        self.part.gives_up.unwrap_or(matches!(self.schedule, Schedule::Cron(..) | Schedule::OnDemand))
    }

    fn is_past_the_limit(&self, failures: u32) -> bool {
        self.part.max_failures.is_some_and(|most| failures > most)
    }

    /// A success, or a fresh instance by `reset`.
    fn forget_failures(&mut self) {
        (self.failures, self.since_success, self.given_up) = (0, 0, false);
    }

    pub(super) fn will_start(&mut self, at: Ms) {
        self.start_wanted = Some(at);
    }

    fn is_failing(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.verdict == Some(Verdict::Fail))
    }

    /// Carries out a request if it is allowed. Returns whether it is.
    pub(super) fn ask(&mut self, at: Ms, n: u32, ask: Ask, within: bool) -> bool {
        use ServiceState::{BackingOff, Draining, Failed, Paused, Running, Starting};
        let (state, failing, is_long) = (self.state, self.is_failing(), self.part.long.is_some());
        let allowed = match ask {
            Ask::Start => self.may_start(),
            Ask::Stop => true,
            Ask::Pause => !self.paused && matches!(state, Running | BackingOff | Starting) && !failing,
            Ask::Resume => self.paused && state != Draining && state.is_running() && !failing,
            Ask::RunNow => matches!(state, Running | BackingOff | Paused) && !failing && self.part.long.is_none(),
            Ask::Reset if within => !self.used_up && state != Draining && !failing,
            Ask::Reset => state == Failed && !self.used_up,
            Ask::Unregister | Ask::SetInterval(_) | Ask::SetRetryDelay(_) | Ask::Wake => self.registered,
            other => unreachable!("{other:?} is not a request to one service"),
        };
        if !allowed {
            return false;
        }
        match ask {
            Ask::Reset if within => {
                if let Some(life) = &mut self.life {
                    life.renew = true;
                    life.tell(at, is_long);
                }
            }
            Ask::Start | Ask::Reset => self.will_start(at),
            Ask::Stop | Ask::Unregister => {
                self.leaving |= ask == Ask::Unregister;
                if let Some(life) = &mut self.life {
                    life.known = true;
                    life.stop.get_or_insert(at);
                }
            }
            Ask::Pause => {
                self.paused = true;
                if let Some(life) = self.life.as_mut().filter(|life| life.is_up()) {
                    life.tell(at, is_long);
                }
            }
            Ask::Resume => {
                self.paused = false;
                if let Some(life) = &mut self.life {
                    life.free = life.free.max(at);
                }
            }
            Ask::RunNow => {
                if let Some(life) = &mut self.life {
                    life.asked.get_or_insert(at);
                    if !within {
                        life.waiting.push(n);
                        self.reports.insert(n, None);
                    }
                }
            }
            Ask::SetInterval(time) => {
                self.schedule = match self.schedule {
                    Schedule::Delay(_) => Schedule::Delay(time),
                    _ => Schedule::Interval(time),
                };
                if let Some(life) = &mut self.life
                    && let Some(timetable) = &mut life.timetable
                {
                    let cleaning = life.instance.as_ref().is_some_and(|instance| instance.cleaning.is_some());
                    let busy = life.run.is_some() || cleaning;
                    timetable.change(self.schedule, busy);
                    life.plan = life.plan.map(|plan| if busy { plan } else { timetable.changed(plan, at) });
                }
            }
            Ask::SetRetryDelay(time) => {
                self.retry_delay = time;
                if let Some(timetable) = self.life.as_mut().and_then(|life| life.timetable.as_mut()) {
                    timetable.retry_delay = time;
                }
            }
            Ask::Wake => {
                if let Some(life) = self.life.as_mut().filter(|life| life.stop.is_none() && !failing && !is_long) {
                    life.woken.get_or_insert(at);
                }
            }
            _ => {}
        }
        true
    }

    /// The first instance of this incarnation has been built.
    pub(super) fn came_up(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.ready)
    }

    pub(super) fn forget_waiter(&mut self, n: u32) {
        self.reports.remove(&n);
    }

    /// Checks the answer to a `run_now`: it must be the report of that run.
    pub(super) fn reports(&mut self, n: u32, answer: &Answer) -> Checked {
        let expected = self.reports.remove(&n).flatten();
        match (&expected, answer) {
            (
                Some(Answer::Ran { error: Some(error), took, .. }),
                Answer::Ran { error: Some(found), took: after, .. },
            ) => {
                must!(
                    found == error && took == after,
                    "`run_now` reports another failure than {expected:?}: {answer:?}"
                );
            }
            (Some(Answer::Refused(_)), Answer::Refused(_)) => {}
            _ => {
                must!(expected.as_ref() == Some(answer), "`run_now` returned {answer:?}, and must return {expected:?}")
            }
        }
        Ok(())
    }

    fn resolve(&mut self, waiting: Vec<u32>, answer: &Answer) {
        for n in waiting {
            if let Some(report) = self.reports.get_mut(&n) {
                *report = Some(answer.clone());
            }
        }
    }

    // ── effects of other services ────────────────────────────────────────────────────────────────────────────────

    pub(super) fn knows_why_it_stops(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.known)
    }

    pub(super) fn hurry(&mut self) {
        if let Some(life) = &mut self.life {
            life.hurried = true;
        }
    }

    pub(super) fn begins_its_first_try(&self) -> bool {
        self.life.as_ref().is_some_and(|life| !life.tried)
    }

    pub(super) fn see_dependencies(&mut self, at: Ms, up: bool) {
        if let Some(life) = self.life.as_mut().filter(|life| !life.tried) {
            if up && life.waits {
                (life.free, life.began) = (at, at);
            }
            life.waits = !up;
        }
    }

    // ── checks between events ────────────────────────────────────────────────────────────────────────────────────

    /// Checks that it has done what it must have done by now.
    pub(super) fn look(&mut self, now: Ms) -> Checked {
        self.settle(now);
        if let Some(wanted) = self.start_wanted {
            must!(now == wanted, "must have started at {wanted}");
        }
        let Some(life) = self.life.as_ref().filter(|_| now > self.last_line) else { return Ok(()) };
        must!(self.unreported.is_none(), "a run was given up without an event");
        let drain = self.part.drain;
        if let Some(run) = &life.run {
            let over = self.part.timeout.map(|timeout| run.started + timeout);
            must!(over.is_none_or(|over| now <= over), "its run is past its timeout");
            let told = life.told.map(|told| told + drain);
            must!(told.is_none_or(|over| now <= over), "its run was requested to end, and goes on");
            let is_told = life.told.is_some() || life.stop.is_some();
            let idle = self.part.long.and_then(|long| long.idle).filter(|_| !is_told).map(|idle| run.reported + idle);
            must!(idle.is_none_or(|over| now <= over), "its run reports nothing, and goes on");
        }
        if let Some(since) = life.instance.as_ref().and_then(|instance| instance.cleaning) {
            must!(now <= since + drain, "its `cleanup` does not end");
            return Ok(());
        }
        if life.is_away() {
            // The check at the end of the incarnation covers how long it waits.
            let since = life.ends_since();
            must!(since.is_none_or(|since| now <= since + drain), "it waits too long for its blocking run");
            return Ok(());
        }
        if let Some(stop) = life.stop {
            let goes_on = life.run.is_some() || life.building.is_some();
            must!(goes_on && now <= stop.max(life.building.unwrap_or_default()) + drain, "it does not stop");
            return Ok(());
        }
        if life.run.is_some() || life.building.is_some() || life.waits {
            return Ok(());
        }
        let asked = life.asked.map(|asked| asked.max(life.free));
        must!(asked.is_none_or(|asked| now <= asked), "a run was requested, but none begins");
        if self.state != ServiceState::Paused {
            let planned = life.plan.map(|plan| plan.to.max(life.free));
            must!(planned.is_some() || self.schedule == Schedule::OnDemand, "no run is planned");
            let due = planned.into_iter().chain(life.woken_at()).min();
            must!(due.is_none_or(|due| now <= due), "a run was due at {due:?}, but none begins");
        }
        let expected = match self.paused {
            _ if !life.is_up() => ServiceState::Starting,
            true => ServiceState::Paused,
            false if life.retrying => ServiceState::BackingOff,
            false => ServiceState::Running,
        };
        must!(self.state == expected, "its state is {}, and must be {expected}", self.state);
        Ok(())
    }

    /// Checks that nothing is left at the end.
    pub(super) fn end(&self) -> Checked {
        must!(self.life.is_none(), "it still runs after the shutdown");
        must!(self.strays.is_empty(), "instances were never cleaned up: {:?}", self.strays.keys());
        must!(self.reports.is_empty(), "reports were never returned: {:?}", self.reports.keys());
        Ok(())
    }

    /// Whether it only waits, and has done so for a while.
    pub(super) fn is_settled(&self, now: Ms) -> bool {
        let is_long = self.part.long.is_some();
        let busy = |life: &Life| {
            let cleaning = life.instance.as_ref().is_some_and(|instance| instance.cleaning.is_some());
            let in_run = life.run.is_some() && (!is_long || life.told.is_some());
            in_run || life.building.is_some() || cleaning || life.is_away() || life.stop.is_some()
        };
        // At the moment when a long run becomes stable, the order is not known.
        let turns_stable = self.stable_at() == Some(now);
        now > self.last_line && !turns_stable && !self.life.as_ref().is_some_and(busy)
    }

    /// Returns when the current long run becomes stable.
    pub(super) fn stable_at(&self) -> Option<Ms> {
        let run = self.life.as_ref()?.run.as_ref()?;
        Some(run.started + self.part.long?.stable)
    }

    /// From a moment on, a long run is stable: earlier failures no longer count.
    pub(super) fn settle(&mut self, now: Ms) {
        let Some(stable) = self.stable_at().filter(|stable| *stable <= now) else { return };
        if let Some(run) = self.life.as_mut().and_then(|life| life.run.as_mut()).filter(|run| !run.stable) {
            run.stable = true;
            self.last_success = Some(stable);
            self.forget_failures();
        }
    }

    /// Whether its work is done, and the registry shuts down.
    pub(super) fn take_shutdown(&mut self) -> bool {
        std::mem::take(&mut self.shuts_down)
    }

    /// Whether an instance may be being built for the first run after one that was given up.
    pub(super) fn may_be_building(&self) -> bool {
        self.given_up && self.life.as_ref().is_some_and(|life| !life.retrying && life.instance.is_none())
    }

    pub(super) fn is_by_cron(&self) -> bool {
        matches!(self.schedule, Schedule::Cron(..))
    }

    /// Returns when its next run may begin, while it waits.
    pub(super) fn due(&self) -> Option<Window> {
        self.life.as_ref()?.plan
    }
}
