//! What one service may do, line by line.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use service_core::FailureKind;
use service_core::prelude::*;

use super::{Checked, must};
use crate::cast::{Origin, Part, Schedule};
use crate::plan::{Kind, Timetable, Window, grant, retry_wait};
use crate::trace::{Advice, Answer, Ask, Decision, How, Line, Ms, What};

/// One service as it ought to be.
pub(crate) struct One {
    pub(super) part: Part,
    pub(super) registered: bool,
    pub(super) registrations: u32,
    /// It is being unregistered: what is started meanwhile is stopped again.
    leaving: bool,
    pub(super) state: ServiceState,
    pub(super) paused: bool,
    schedule: Schedule,
    retry_delay: Ms,
    /// A ready-made instance has been handed out.
    used_up: bool,
    /// Since it was registered.
    pub(super) runs: u64,
    pub(super) errors: u64,
    pub(super) processed: u64,
    pub(super) restarts: u64,
    pub(super) last_run: Option<Ms>,
    pub(super) last_duration: Option<Ms>,
    pub(super) last_error: Option<String>,
    /// In the life that it is in, or was last.
    pub(super) failures: u32,
    pub(super) degraded: bool,
    pub(super) all_runs: u64,
    pub(super) lives: u32,
    pub(super) failed_life: Option<u32>,
    start_wanted: Option<Ms>,
    pub(super) life: Option<Life>,
    pub(super) last_line: Ms,
    /// Instances that were made and not built in yet; and those of them that were registered and forgotten.
    made: BTreeSet<u32>,
    forgotten: BTreeSet<u32>,
    permits: VecDeque<Ms>,
    reports: BTreeMap<u32, Option<Answer>>,
}

/// From `Starting` to `Stopped` or `Failed`.
pub(crate) struct Life {
    /// It was told to stop, and whether it is known by whom.
    pub(super) stop: Option<Ms>,
    known: bool,
    hurried: bool,
    /// It waits for those that it depends on.
    waits: bool,
    tried: bool,
    pub(super) up: bool,
    timetable: Option<Timetable>,
    building: Option<Ms>,
    configured: Option<How>,
    pub(super) instance: Option<Instance>,
    pub(super) run: Option<Run>,
    plan: Option<Window>,
    asked: Option<Ms>,
    waiting: Vec<u32>,
    /// Since when nothing has stood in the way of what is to be done.
    free: Ms,
    /// What was decided and is not done yet.
    verdict: Option<Verdict>,
    pub(super) retrying: bool,
    renew: bool,
    aborted: bool,
    granted: Vec<Ms>,
}

pub(crate) struct Instance {
    serial: u32,
    broken: bool,
    pub(super) cleaning: Option<Ms>,
    dropped: bool,
}

pub(crate) struct Run {
    number: u64,
    started: Ms,
    inside: bool,
    how: Option<How>,
    on_failure: Option<(Decision, Option<Decision>)>,
    waiting: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry(Ms),
    Regular,
    Stop,
    Restart,
    /// Failed, and was told in time to go on with a fresh instance.
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
            restarts: 0,
            last_run: None,
            last_duration: None,
            last_error: None,
            failures: 0,
            degraded: false,
            all_runs: 0,
            lives: 0,
            failed_life: None,
            start_wanted: None,
            life: None,
            last_line: 0,
            made: BTreeSet::new(),
            forgotten: BTreeSet::new(),
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

    pub(super) fn will_start(&mut self, at: Ms) {
        self.start_wanted = Some(at);
    }

    fn is_failing(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.verdict == Some(Verdict::Fail))
    }

    /// Takes what is asked as done where it is allowed, and says whether it is.
    pub(super) fn ask(&mut self, at: Ms, n: u32, ask: Ask, within: bool) -> bool {
        use ServiceState::{BackingOff, Draining, Failed, Paused, Running, Starting};
        let (state, failing) = (self.state, self.is_failing());
        let allowed = match ask {
            Ask::Start => self.may_start(),
            Ask::Stop => true,
            Ask::Pause => !self.paused && matches!(state, Running | BackingOff | Starting) && !failing,
            Ask::Resume => self.paused && state != Draining && state.is_running() && !failing,
            Ask::RunNow => matches!(state, Running | BackingOff | Paused) && !failing,
            Ask::Reset if within => !self.used_up && state != Draining && !failing,
            Ask::Reset => state == Failed && !self.used_up,
            Ask::Unregister | Ask::SetInterval(_) | Ask::SetRetryDelay(_) => self.registered,
            other => unreachable!("{other:?} is not asked of one service"),
        };
        if !allowed {
            return false;
        }
        match ask {
            Ask::Reset if within => {
                if let Some(life) = &mut self.life {
                    life.renew = true;
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
            Ask::Pause => self.paused = true,
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
                    timetable.schedule = self.schedule;
                    life.plan = life.plan.map(|plan| timetable.changed(plan, at));
                }
            }
            Ask::SetRetryDelay(time) => self.retry_delay = time,
            _ => {}
        }
        true
    }

    pub(super) fn forget_waiter(&mut self, n: u32) {
        self.reports.remove(&n);
    }

    /// The answer to a `run_now`: the run's own.
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
            _ => must!(expected.as_ref() == Some(answer), "`run_now` answers {answer:?}, and not {expected:?}"),
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

    // ── what the others do ───────────────────────────────────────────────────────────────────────────────────────

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
                life.free = at;
            }
            life.waits = !up;
        }
    }

    // ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn take(&mut self, line: &Line) -> Checked {
        let at = line.at;
        must!(at >= self.last_line, "time goes backwards");
        self.last_line = at;
        match &line.what {
            What::State { from, to } => {
                must!(*from == self.state, "a step from {from}, but it is {}", self.state);
                must!(is_legal(*from, *to), "a step from {from} to {to}");
                self.step(at, *to)?;
                self.state = *to;
            }
            What::Registered => {
                must!(!self.registered, "registered twice");
                let (part, made) = (self.part.clone(), std::mem::take(&mut self.made));
                let forgotten = std::mem::take(&mut self.forgotten);
                let (all_runs, lives, registrations) = (self.all_runs, self.lives, self.registrations + 1);
                let reports = std::mem::take(&mut self.reports);
                *self = Self {
                    all_runs,
                    lives,
                    registrations,
                    made,
                    forgotten,
                    reports,
                    last_line: at,
                    ..Self::new(&part)
                };
            }
            What::Unregistered => {
                must!(self.life.is_none() && !self.state.is_running(), "unregistered, and it still runs");
                self.registered = false;
                self.forgotten.append(&mut self.made);
            }
            What::ConfigureBegan => self.begin_building(at)?,
            What::ConfigureEnds(how) => {
                let life = self.life()?;
                must!(life.building.is_some(), "`configure` ends, but it had not begun");
                life.configured = Some(*how);
            }
            What::Made { instance } => {
                self.made.insert(*instance);
            }
            What::Built => self.built(at)?,
            What::RunStarted { run } => self.run_started(at, *run)?,
            What::Began { instance, run } => {
                let known = self.life()?.instance.as_ref().map(|instance| (instance.serial, instance.broken));
                must!(known == Some((*instance, false)), "the run is not the whole instance's: {known:?}");
                let Some(current) = &mut self.life()?.run else { return Err("a run began unheard".to_owned()) };
                must!(current.number == *run && current.started == at, "another run began");
                must!(!current.inside, "two runs at once");
                current.inside = true;
            }
            What::Ends(how) => {
                let Some(run) = &mut self.life()?.run else { return Err("a run goes on after its end".to_owned()) };
                run.how = Some(*how);
            }
            What::Left => {
                let Some(run) = &mut self.life()?.run else { return Err("a run is left after its end".to_owned()) };
                must!(run.inside, "a run is left that nobody was in");
                run.inside = false;
            }
            What::RunFinished { run, took, processed, failed, again } => {
                let how = How::Well { processed: *processed, failed: *failed, again: *again };
                self.run_finished(at, *run, *took, how)?;
            }
            What::OnFailure { kind, count, wait, default, answer } => {
                self.on_failure(at, *kind, *count, *wait, *default, *answer)?;
            }
            What::RunFailed { run, kind, count, decided, error } => {
                self.run_failed(at, *run, *kind, *count, *decided, error)?;
            }
            What::Aborted => self.aborted(at)?,
            What::CleanupBegan { instance } => self.cleanup_began(at, *instance)?,
            What::Dropped { instance } => self.dropped(*instance)?,
            What::Ended => self.instance_ended(at)?,
            What::Restart { after } => self.restarts(at, *after)?,
            What::OptionChanged { .. } => {}
            What::Permit => self.permit(at)?,
            What::Degraded => self.degraded = true,
            What::Ask { .. } | What::Answer { .. } | What::GaveUp { .. } => {}
        }
        Ok(())
    }

    fn step(&mut self, at: Ms, to: ServiceState) -> Checked {
        let paused = self.paused;
        if to == ServiceState::Starting {
            must!(self.start_wanted == Some(at), "starts, and nobody asked for it");
            self.begin_life(at);
            return Ok(());
        }
        let state = self.state;
        let life = self.life()?;
        match to {
            ServiceState::Running => {
                must!(!paused || state == ServiceState::Starting, "goes on, but it is paused");
                must!(life.up, "is running, and nothing was built");
                if life.retrying && life.renew {
                    life.renew_at(at);
                    self.failures = 0;
                } else if life.retrying {
                    life.may_begin(at, false)?;
                }
            }
            ServiceState::Paused => must!(paused, "is paused, and nobody asked for it"),
            ServiceState::BackingOff => must!(life.retrying && !paused, "backs off for no reason"),
            ServiceState::Draining => {
                let by_itself = life.verdict == Some(Verdict::Stop);
                life.stop.get_or_insert(at);
                must!(by_itself || life.stop == Some(at), "was told to stop at {:?}", life.stop);
            }
            ServiceState::Stopped => {
                must!(life.is_over(), "stopped, and something still goes on");
                let ends = life.stop.unwrap_or_default().max(life.free);
                must!(at == ends, "stopped at {at}, and ought to have at {ends}");
                self.end_life();
            }
            ServiceState::Failed => {
                must!(life.is_over(), "failed, and something still goes on");
                must!(life.verdict == Some(Verdict::Fail), "failed, after {:?} was decided", life.verdict);
                must!(at == life.free, "failed at {at}, and ought to have at {}", life.free);
                self.failed_life = Some(self.lives);
                self.end_life();
            }
            other => return Err(format!("became {other}")),
        }
        Ok(())
    }

    fn begin_life(&mut self, at: Ms) {
        self.start_wanted = None;
        self.lives += 1;
        (self.paused, self.failures, self.degraded) = (false, 0, false);
        self.life = Some(Life {
            stop: None,
            known: self.leaving,
            hurried: false,
            waits: false,
            tried: false,
            up: false,
            timetable: None,
            building: None,
            configured: None,
            instance: None,
            run: None,
            plan: Some(Window::at(at, Kind::AtOnce)),
            asked: None,
            waiting: Vec::new(),
            free: at,
            verdict: None,
            retrying: false,
            renew: false,
            aborted: false,
            granted: Vec::new(),
        });
    }

    fn end_life(&mut self) {
        self.paused = false;
        if let Some(life) = self.life.take() {
            self.resolve(life.waiting, &Answer::Refused("ended".to_owned()));
        }
    }

    // ── building ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn begin_building(&mut self, at: Ms) -> Checked {
        let paused = self.paused && self.state == ServiceState::Paused;
        let life = self.life()?;
        must!(life.instance.is_none() && life.building.is_none(), "builds an instance beside another");
        life.may_begin(at, paused)?;
        (life.tried, life.building, life.configured) = (true, Some(at), None);
        Ok(())
    }

    fn built(&mut self, at: Ms) -> Checked {
        if self.part.origin == Origin::ReadyMade {
            must!(!self.used_up, "a ready-made instance was handed out twice");
            self.used_up = true;
            self.begin_building(at)?;
        } else {
            let configured = self.life()?.configured;
            must!(matches!(configured, Some(How::Well { .. })), "built, though `configure` ended as {configured:?}");
        }
        must!(self.made.len() == 1, "built out of {:?}", self.made);
        let serial = self.made.pop_first().unwrap_or_default();
        let (schedule, part) = (self.schedule, self.part.clone());
        let life = self.life()?;
        (life.building, life.free) = (None, at);
        life.instance = Some(Instance { serial, broken: false, cleaning: None, dropped: false });
        if !life.up {
            let (timetable, window) = Timetable::new(schedule, &part, at);
            (life.up, life.timetable, life.plan, life.retrying) = (true, Some(timetable), Some(window), false);
            self.failures = 0;
        }
        Ok(())
    }

    // ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn run_started(&mut self, at: Ms, number: u64) -> Checked {
        must!(
            matches!(self.state, ServiceState::Running | ServiceState::Paused),
            "a run begins, but it is {}",
            self.state
        );
        self.runs += 1;
        self.all_runs += 1;
        must!(number == self.runs, "run {number} begins, and ought to be {}", self.runs);
        (self.last_run, self.degraded) = (Some(at), false);
        let paused = self.paused;
        let life = self.life()?;
        must!(life.run.is_none(), "two runs at once");
        must!(life.up && life.instance.is_some(), "a run without an instance");
        life.may_begin(at, paused)?;
        (life.asked, life.plan, life.retrying) = (None, None, false);
        let waiting = std::mem::take(&mut life.waiting);
        life.run = Some(Run { number, started: at, inside: false, how: None, on_failure: None, waiting });
        Ok(())
    }

    /// The run in flight is over.
    fn end_run(&mut self, at: Ms, number: u64) -> Result<Run, String> {
        let life = self.life()?;
        let run = life.run.take().ok_or("a run ends that had not begun")?;
        must!(run.number == number, "run {number} ends, but {} was in flight", run.number);
        must!(!run.inside, "run {number} has ended, and its code still goes on");
        life.free = at;
        if let Some(timetable) = &mut life.timetable {
            timetable.ran(run.started, at);
        }
        self.last_duration = Some(at - run.started);
        Ok(run)
    }

    fn run_finished(&mut self, at: Ms, number: u64, took: Ms, how: How) -> Checked {
        let timeout = self.part.timeout;
        let run = self.end_run(at, number)?;
        must!(run.how == Some(how), "reported as {how:?}, and it was {:?}", run.how);
        must!(took == at - run.started, "took {took} ms, and ran for {} ms", at - run.started);
        must!(timeout.is_none_or(|timeout| took <= timeout), "ran for {took} ms, longer than its timeout");
        let How::Well { processed, failed, again } = how else { unreachable!("a finished run went well") };
        self.failures = 0;
        self.processed += processed;
        self.resolve(run.waiting, &Answer::Ran { error: None, processed, failed, again, took });
        self.life()?.plan_regular()?;
        if again {
            self.life()?.plan = Some(Window::at(at, Kind::AtOnce));
        }
        Ok(())
    }

    fn on_failure(
        &mut self,
        at: Ms,
        kind: FailureKind,
        count: u32,
        wait: Ms,
        default: Decision,
        answer: Option<Decision>,
    ) -> Checked {
        let (failures, expected) = (self.failures + 1, retry_wait(&self.part, self.retry_delay, self.failures + 1));
        let past = failures > self.part.max_failures;
        let life = self.life()?;
        let cleaning = life.instance.as_ref().is_some_and(|instance| instance.cleaning.is_some());
        must!(!cleaning, "`on_failure` is asked after `cleanup`");
        let Some(run) = &mut life.run else { return Err("`on_failure` is asked without a run".to_owned()) };
        must!(run.on_failure.is_none(), "`on_failure` is asked twice");
        let right = advised(advice(run.how), past);
        must!(count == failures, "`on_failure` is told of failure {count}, and it is number {failures}");
        must!(wait == expected, "`on_failure` is told of a wait of {wait} ms, and it is {expected} ms");
        must!(default == right, "`on_failure` is told {default:?}, and by default it is {right:?}");
        must!(kind == kind_of(run.how), "`on_failure` is told of {kind:?} at {at}, after {:?}", run.how);
        run.on_failure = Some((default, answer));
        Ok(())
    }

    fn run_failed(
        &mut self,
        at: Ms,
        number: u64,
        kind: FailureKind,
        count: u32,
        decided: Decision,
        error: &str,
    ) -> Checked {
        let timeout = self.part.timeout;
        let failures = self.failures + 1;
        let past = failures > self.part.max_failures;
        must!(count == failures, "failure {count}, and it is number {failures} in a row");
        let stop = self.life()?.stop;
        let (decision, waiting, took);
        if self.life()?.run.is_some() {
            let run = self.end_run(at, number)?;
            let ran = at - run.started;
            must!(kind == kind_of(run.how), "{kind:?}, after {:?}", run.how);
            let life = self.life()?;
            let panicked = kind == FailureKind::Panic;
            if std::mem::take(&mut life.aborted) {
                must!(run.how.is_none() && run.on_failure.is_none(), "an aborted run ended as {:?}", run.how);
                decision = Decision::Stop;
            } else {
                if run.how.is_none() {
                    must!(timeout == Some(ran), "cut after {ran} ms, and its timeout is {timeout:?}");
                }
                let (default, answer) = run.on_failure.ok_or("`on_failure` was not asked")?;
                decision = answer.unwrap_or(default);
                if let Some(instance) = &mut life.instance {
                    instance.broken = panicked || answer.is_none();
                }
            }
            (waiting, took) = (run.waiting, ran);
        } else {
            let runs = self.runs;
            let life = self.life()?;
            must!(life.building.take().is_some(), "a failure, and nothing went on");
            must!(number == runs, "`configure` failed for run {number}, after run {runs}");
            let how = life.configured.take();
            must!(kind == kind_of(how) && how.is_some(), "{kind:?}, but `configure` ended as {how:?}");
            (life.free, life.asked) = (at, None);
            decision = advised(advice(how), past);
            (waiting, took) = (std::mem::take(&mut life.waiting), 0);
        }
        self.errors += 1;
        self.last_error = Some(error.to_owned());
        let report = Answer::Ran { error: Some(error.to_owned()), processed: 0, failed: 0, again: false, took };
        self.resolve(waiting, &report);
        self.decide(at, stop.is_some(), decision, decided, failures)
    }

    /// What is to follow this failure.
    fn decide(&mut self, at: Ms, stopping: bool, decision: Decision, decided: Decision, failures: u32) -> Checked {
        let (part, retry_delay) = (self.part.clone(), self.retry_delay);
        let ready_made = part.origin == Origin::ReadyMade;
        let life = self.life()?;
        let broken = life.instance.as_ref().is_some_and(|instance| instance.broken);
        let past = failures > part.max_failures;
        let mut verdict = match decision {
            Decision::Retry | Decision::RetryAfter(_) if past => Verdict::Fail,
            Decision::Retry => Verdict::Retry(retry_wait(&part, retry_delay, failures)),
            Decision::RetryAfter(wait) => Verdict::Retry(wait),
            Decision::Ignore => Verdict::Regular,
            Decision::Stop => Verdict::Stop,
            Decision::Fail => Verdict::Fail,
        };
        if broken && ready_made && matches!(verdict, Verdict::Retry(_) | Verdict::Regular) {
            verdict = Verdict::Fail;
        }
        let right = if verdict == Verdict::Fail { Decision::Fail } else { decision };
        must!(decided == right, "told as {decided:?}, and it is {right:?}");
        if verdict == Verdict::Fail && !stopping && life.renew {
            verdict = Verdict::Renew;
        } else if verdict == Verdict::Fail && !stopping {
            let restart = part.restart.filter(|_| !ready_made);
            if restart.is_some_and(|restart| grant(&mut life.granted, restart, at)) {
                verdict = Verdict::Restart;
            }
        }
        if verdict == Verdict::Stop {
            life.known = true;
            life.stop.get_or_insert(at);
        }
        life.verdict = Some(verdict);
        if !broken {
            life.carry_out(at)?;
        }
        if decided != Decision::Ignore {
            self.failures = failures;
        }
        Ok(())
    }

    fn aborted(&mut self, at: Ms) -> Checked {
        let drain = self.part.drain;
        let life = self.life()?;
        let since = match &life.instance {
            Some(Instance { cleaning: Some(since), .. }) => *since,
            _ => life.stop.ok_or("something was aborted, and nobody said stop")?.max(life.building.unwrap_or_default()),
        };
        let took = at - since;
        must!(took == drain || (life.hurried && took <= drain), "aborted after {took} ms, and {drain} ms it may take");
        if life.building.take().is_some() {
            life.free = at;
        } else if life.run.is_some() {
            life.aborted = true;
        }
        Ok(())
    }

    // ── the end of an instance ───────────────────────────────────────────────────────────────────────────────────

    fn cleanup_began(&mut self, at: Ms, serial: u32) -> Checked {
        let life = self.life()?;
        must!(life.run.is_none(), "`cleanup` begins during a run");
        let ends = life.stop.is_some() || life.renew || matches!(life.verdict, Some(Verdict::Fail | Verdict::Restart));
        let since = life.stop.unwrap_or_default().max(life.free);
        let Some(instance) = &mut life.instance else { return Err("`cleanup` without an instance".to_owned()) };
        must!(instance.serial == serial, "`cleanup` of another instance");
        must!(instance.cleaning.is_none(), "`cleanup` is called twice");
        must!(ends || instance.broken, "`cleanup` of an instance that is still wanted");
        must!(at == since, "`cleanup` begins at {at}, and ought to at {since}");
        instance.cleaning = Some(at);
        Ok(())
    }

    fn dropped(&mut self, serial: u32) -> Checked {
        if self.made.remove(&serial) || self.forgotten.remove(&serial) {
            return Ok(());
        }
        let instance = self.life()?.instance.as_mut().filter(|instance| instance.serial == serial);
        let Some(instance) = instance else { return Err(format!("instance {serial} lived on after its end")) };
        must!(instance.cleaning.is_some(), "dropped without `cleanup`");
        instance.dropped = true;
        Ok(())
    }

    fn instance_ended(&mut self, at: Ms) -> Checked {
        let drain = self.part.drain;
        let life = self.life()?;
        let Some(instance) = life.instance.take() else { return Err("an instance ends that was not there".to_owned()) };
        let since = instance.cleaning.ok_or("an instance ended without `cleanup`")?;
        must!(instance.dropped, "an instance has ended and was not dropped");
        must!(at - since <= drain, "`cleanup` took {} ms, and {drain} ms it may take", at - since);
        life.free = at;
        if instance.broken {
            life.carry_out(at)?;
        }
        if life.renew && !matches!(life.verdict, Some(Verdict::Fail | Verdict::Restart | Verdict::Stop)) {
            // Where it is told to back off first, it is told to go on in the same moment.
            let retrying = life.retrying;
            if !(retrying && instance.broken) || life.stop.is_some() || self.paused {
                self.life()?.renew_at(at);
                self.failures = 0;
            }
        }
        Ok(())
    }

    fn restarts(&mut self, at: Ms, after: Ms) -> Checked {
        let delay = self.part.restart.map(|restart| restart.delay);
        must!(delay == Some(after), "a restart after {after} ms, and it is {delay:?}");
        let life = self.life()?;
        must!(life.verdict == Some(Verdict::Restart), "a restart, after {:?} was decided", life.verdict);
        must!(life.instance.is_none() && life.free == at, "a restart beside the old instance");
        (life.verdict, life.retrying) = (None, true);
        life.plan = Some(Window::at(at + after, Kind::Retry));
        self.failures = 0;
        self.restarts += 1;
        Ok(())
    }

    fn permit(&mut self, at: Ms) -> Checked {
        let Some((most, per)) = self.part.rate else { return Err("a permit without a limit".to_owned()) };
        self.permits.push_back(at);
        if self.permits.len() > most {
            let earlier = self.permits.pop_front().unwrap_or_default();
            must!(at - earlier >= per, "{} permits within {} ms", most + 1, at - earlier);
        }
        Ok(())
    }

    // ── now and then ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether it does what it should by now.
    pub(super) fn look(&self, now: Ms) -> Checked {
        if let Some(wanted) = self.start_wanted {
            must!(now == wanted, "ought to have started at {wanted}");
        }
        let Some(life) = self.life.as_ref().filter(|_| now > self.last_line) else { return Ok(()) };
        let drain = self.part.drain;
        if let Some(run) = &life.run {
            let over = self.part.timeout.map(|timeout| run.started + timeout);
            must!(over.is_none_or(|over| now <= over), "its run is past its timeout");
        }
        if let Some(since) = life.instance.as_ref().and_then(|instance| instance.cleaning) {
            must!(now <= since + drain, "its `cleanup` does not end");
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
        must!(asked.is_none_or(|asked| now <= asked), "a run was asked for, and none begins");
        if self.state != ServiceState::Paused {
            let due = life.plan.map(|plan| plan.to.max(life.free)).ok_or("it plans nothing")?;
            must!(now <= due, "a run was due at {due}, and none begins");
        }
        let expected = match (self.paused, life.up) {
            (true, true) => ServiceState::Paused,
            (true, false) => self.state,
            (false, _) if life.retrying => ServiceState::BackingOff,
            (false, true) => ServiceState::Running,
            (false, false) => ServiceState::Starting,
        };
        must!(self.state == expected, "it is {}, and ought to be {expected}", self.state);
        Ok(())
    }

    /// Whether nothing is left over.
    pub(super) fn end(&self) -> Checked {
        must!(self.life.is_none(), "it still runs after the shutdown");
        must!(self.reports.is_empty(), "reports were never given: {:?}", self.reports.keys());
        Ok(())
    }

    /// Whether nothing goes on but waiting, and has not for a while.
    pub(super) fn is_settled(&self, now: Ms) -> bool {
        let busy = |life: &Life| {
            let cleaning = life.instance.as_ref().is_some_and(|instance| instance.cleaning.is_some());
            life.run.is_some() || life.building.is_some() || cleaning || life.stop.is_some()
        };
        now > self.last_line && !self.life.as_ref().is_some_and(busy)
    }

    /// When its next run may begin, while it waits for it.
    pub(super) fn due(&self) -> Option<Window> {
        self.life.as_ref()?.plan
    }
}

impl Life {
    /// Whether a run, or the building of an instance for it, may begin at this moment.
    fn may_begin(&self, at: Ms, paused: bool) -> Checked {
        must!(self.stop.is_none(), "something begins after a stop");
        let broken = self.instance.as_ref().is_some_and(|instance| instance.broken || instance.cleaning.is_some());
        must!(!broken, "something begins with an instance that has ended");
        if let Some(asked) = self.asked {
            let due = asked.max(self.free);
            // A run that was due anyway in the same moment answers the request as well.
            must!(at == due, "a run that was asked for at {asked} begins at {at}, and ought to at {due}");
            return Ok(());
        }
        must!(!paused, "a scheduled run while paused");
        let plan = self.plan.ok_or("something begins that nobody planned")?;
        let latest = plan.to.max(self.free);
        must!(plan.from <= at, "begins at {at}, before it is due: {plan:?}");
        must!(at <= latest, "begins at {at}, late: {plan:?}, free since {}", self.free);
        Ok(())
    }

    fn plan_regular(&mut self) -> Checked {
        let timetable = self.timetable.as_mut().ok_or("a regular run before it was up")?;
        self.plan = Some(timetable.next());
        Ok(())
    }

    /// What was decided after a failure is done now that nothing stands in its way.
    fn carry_out(&mut self, at: Ms) -> Checked {
        match self.verdict {
            Some(Verdict::Retry(wait)) => {
                self.plan = Some(Window::at(at + wait, Kind::Retry));
                (self.retrying, self.verdict) = (true, None);
            }
            Some(Verdict::Regular) => {
                self.plan_regular()?;
                self.verdict = None;
            }
            Some(Verdict::Stop | Verdict::Restart | Verdict::Renew | Verdict::Fail) | None => {}
        }
        Ok(())
    }

    /// A fresh instance follows at once.
    fn renew_at(&mut self, at: Ms) {
        (self.renew, self.retrying, self.verdict) = (false, false, None);
        self.plan = Some(Window::at(at, Kind::AtOnce));
    }

    fn is_over(&self) -> bool {
        self.run.is_none() && self.instance.is_none() && self.building.is_none()
    }
}

fn is_legal(from: ServiceState, to: ServiceState) -> bool {
    use ServiceState::{BackingOff, Created, Draining, Failed, Paused, Running, Starting, Stopped};
    matches!(
        (from, to),
        (Created | Stopped | Failed, Starting)
            | (Starting, Running | BackingOff)
            | (Running, Paused | BackingOff)
            | (Paused, Running | BackingOff)
            | (BackingOff, Running | Paused)
            | (Starting | Running | Paused | BackingOff, Draining | Failed)
            | (Draining, Stopped)
    )
}

fn advice(how: Option<How>) -> Advice {
    match how {
        Some(How::Badly(advice)) => advice,
        _ => Advice::None,
    }
}

/// What follows by default.
fn advised(advice: Advice, past: bool) -> Decision {
    match advice {
        Advice::Fatal => Decision::Fail,
        _ if past => Decision::Fail,
        Advice::RetryAfter(wait) => Decision::RetryAfter(wait),
        Advice::None => Decision::Retry,
    }
}

/// Code that did not end by itself was cut.
fn kind_of(how: Option<How>) -> FailureKind {
    match how {
        Some(How::Panics) => FailureKind::Panic,
        Some(_) => FailureKind::Error,
        None => FailureKind::Timeout,
    }
}
