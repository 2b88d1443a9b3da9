//! The runs and failures of one service, and the end of its instances.

use service_core::FailureKind;

use crate::cast::OnEnd;

use super::*;

impl One {
    // ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn run_started(&mut self, at: Ms, number: u64) -> Checked {
        let may_run = match self.life.as_ref().is_some_and(Life::is_up) {
            true => matches!(self.state, ServiceState::Running | ServiceState::Paused),
            // It is ready only in its run.
            false => self.state == ServiceState::Starting && self.part.long.is_some_and(|long| long.explicit),
        };
        must!(may_run, "a run begins, but the state is {}", self.state);
        self.runs += 1;
        self.all_runs += 1;
        must!(number == self.runs, "run {number} begins, and its number must be {}", self.runs);
        (self.last_run, self.degraded) = (Some(at), false);
        // Until it is ready, a paused service goes on.
        let (paused, given_up) = (self.paused && self.state == ServiceState::Paused, self.given_up);
        let life = self.life()?;
        must!(life.run.is_none(), "two runs at once");
        must!(life.up && life.instance.is_some(), "a run without an instance");
        life.may_begin(at, paused)?;
        let requested = life.asked.is_some() || life.woken_at().is_some();
        let due = life.plan.map(|plan| plan.kind).filter(|_| !requested);
        let fresh = given_up && !life.retrying;
        let by_cron = due == Some(Kind::Regular) && life.goes_by_cron();
        if let Some(timetable) = &mut life.timetable {
            timetable.begins(life.plan.map(|plan| plan.kind), requested, at);
        }
        (life.asked, life.woken, life.plan, life.retrying) = (None, None, None, false);
        let waiting = std::mem::take(&mut life.waiting);
        (life.told, life.retrying) = (None, false);
        life.run = Some(Run {
            number,
            started: at,
            inside: false,
            how: None,
            on_failure: None,
            waiting,
            reported: at,
            items: (0, 0),
            stable: false,
        });
        self.by_cron += u64::from(by_cron);
        if fresh {
            self.failures = 0;
        }
        Ok(())
    }

    /// The current run is over.
    pub(super) fn end_run(&mut self, at: Ms, number: u64) -> Result<Run, String> {
        let blocking = self.part.blocking;
        let life = self.life()?;
        let run = life.run.take().ok_or("a run ends that had not begun")?;
        must!(run.number == number, "run {number} ends, but the current run is {}", run.number);
        let strayed = blocking && run.how.is_none();
        if strayed {
            // Blocking code cannot be cancelled: it continues, and the next run waits.
            must!(run.inside, "run {number} timed out, but had not begun");
            life.instance.as_mut().ok_or("a run without an instance")?.away = true;
        } else {
            must!(!run.inside, "run {number} has ended, but its code still runs");
        }
        life.free = at;
        if let Some(timetable) = &mut life.timetable {
            timetable.ran(run.started, at);
        }
        self.strayed += u64::from(strayed);
        self.last_duration = Some(at - run.started);
        Ok(run)
    }

    pub(super) fn run_finished(&mut self, at: Ms, number: u64, took: Ms, how: How) -> Checked {
        let timeout = self.part.timeout;
        if let Some(long) = self.part.long {
            return self.long_run_finished(at, number, took, how, long.on_end);
        }
        let run = self.end_run(at, number)?;
        must!(run.how == Some(how), "reported as {how:?}, but it ended as {:?}", run.how);
        must!(took == at - run.started, "reported as {took} ms, but it took {} ms", at - run.started);
        must!(timeout.is_none_or(|timeout| took <= timeout), "took {took} ms, longer than its timeout");
        let How::Well { processed, failed, again } = how else { unreachable!("a finished run has succeeded") };
        self.forget_failures();
        self.last_success = Some(at);
        self.processed += processed;
        self.failed_items += failed;
        self.resolve(run.waiting, &Answer::Ran { error: None, processed, failed, again, took });
        self.life()?.plan_regular(at)?;
        if again {
            self.life()?.plan = Some(Window::at(at, Kind::AtOnce));
        }
        Ok(())
    }

    /// A long run has ended without a failure: by itself, or because it was told to.
    fn long_run_finished(&mut self, at: Ms, number: u64, took: Ms, how: How, on_end: OnEnd) -> Checked {
        let drain = self.part.drain;
        let run = self.end_run(at, number)?;
        must!(took == at - run.started, "reported as {took} ms, but it took {} ms", at - run.started);
        let (processed, failed) = run.items;
        must!(
            how == How::Well { processed, failed, again: false },
            "reported as {how:?}, but it reported {:?}",
            run.items
        );
        let life = self.life()?;
        let told = life.told.take();
        life.plan = Some(Window::at(at, Kind::AtOnce));
        if std::mem::take(&mut life.aborted) {
            must!(
                run.how.is_none() && told.map(|told| told + drain) == Some(at),
                "cancelled, but it was told at {told:?}"
            );
            return Ok(());
        }
        if told.is_some() || life.stop.is_some() {
            must!(matches!(run.how, Some(How::Well { .. } | How::Badly(_))), "it ended as {:?}", run.how);
            return Ok(());
        }
        must!(matches!(run.how, Some(How::Well { .. })), "it ended by itself as {:?}", run.how);
        match on_end {
            OnEnd::Again => life.plan_regular(at)?,
            OnEnd::Stop | OnEnd::Shutdown => (life.known, life.stop) = (true, Some(at)),
        }
        self.shuts_down = on_end == OnEnd::Shutdown;
        self.forget_failures();
        self.last_success = Some(at);
        Ok(())
    }

    pub(super) fn on_failure(
        &mut self,
        at: Ms,
        kind: FailureKind,
        count: u32,
        wait: Ms,
        default: Decision,
        answer: Option<Decision>,
    ) -> Checked {
        let began = self.life()?.run.as_ref().map_or(at, |run| run.started);
        let (failures, past) = self.next_failure(began);
        let (expected, past) = (retry_wait(&self.part, self.retry_delay, failures), past && !self.gives_up());
        let life = self.life()?;
        let cleaning = life.instance.as_ref().is_some_and(|instance| instance.cleaning.is_some());
        must!(!cleaning, "`on_failure` is called after `cleanup`");
        let Some(run) = &mut life.run else { return Err("`on_failure` is called without a run".to_owned()) };
        must!(run.on_failure.is_none(), "`on_failure` is called twice");
        let right = advised(advice(run.how), past);
        must!(count == failures, "`on_failure` gets failure {count}, but it is number {failures}");
        must!(wait == expected, "`on_failure` gets a wait of {wait} ms, but it is {expected} ms");
        must!(default == right, "`on_failure` gets the default {default:?}, but it is {right:?}");
        must!(kind == kind_of(run.how), "`on_failure` gets {kind:?} at {at}, after {:?}", run.how);
        run.on_failure = Some((default, answer));
        Ok(())
    }

    pub(super) fn run_failed(
        &mut self,
        at: Ms,
        number: u64,
        kind: FailureKind,
        count: u32,
        decided: Decision,
        error: &str,
    ) -> Checked {
        let (timeout, ready_made) = (self.part.timeout, self.part.origin == Origin::ReadyMade);
        let idle = self.part.long.map(|long| long.idle);
        if self.may_be_building() {
            // The first attempt after a run that was given up.
            self.failures = 0;
        }
        let life = self.life()?;
        let stop = life.stop;
        let began = life.run.as_ref().map(|run| run.started).or(life.building).unwrap_or(at);
        life.failed_began = began;
        let (failures, exhausted) = if life.aborted { (self.failures + 1, false) } else { self.next_failure(began) };
        let past = exhausted && !self.gives_up();
        self.excused += u64::from(failures <= self.failures);
        must!(count == failures, "failure {count}, but it is number {failures} in a row");
        let (decision, waiting, took);
        let ran = self.life()?.run.is_some();
        if ran {
            let run = self.end_run(at, number)?;
            let lasted = at - run.started;
            must!(kind == kind_of(run.how), "{kind:?}, after {:?}", run.how);
            let life = self.life()?;
            let panicked = kind == FailureKind::Panic;
            if std::mem::take(&mut life.aborted) {
                must!(run.how.is_none() && run.on_failure.is_none(), "an aborted run ended as {:?}", run.how);
                decision = Decision::Stop;
            } else {
                let is_told = life.told.take().is_some() || life.stop.is_some();
                if run.how.is_none() {
                    let limit = match idle {
                        None => timeout,
                        Some(idle) => idle.map(|idle| run.reported + idle - run.started).filter(|_| !is_told),
                    };
                    must!(limit == Some(lasted), "cancelled after {lasted} ms, but its limit is {limit:?}");
                }
                must!(
                    idle.is_none() || !is_told || kind == FailureKind::Panic,
                    "a run that was requested to end has failed as {kind:?}"
                );
                let out_of_reach = life.is_away().then(|| (advised(Advice::None, past), None));
                must!(
                    out_of_reach.is_none() || run.on_failure.is_none(),
                    "`on_failure` of an instance that a blocking run still holds"
                );
                let away = out_of_reach.is_some();
                let (default, answer) = run.on_failure.or(out_of_reach).ok_or("`on_failure` was not called")?;
                decision = answer.unwrap_or(default);
                if let Some(instance) = &mut life.instance {
                    instance.broken = panicked || (answer.is_none() && !away);
                }
            }
            (waiting, took) = (run.waiting, lasted);
        } else {
            let (runs, paused) = (self.runs, self.paused);
            let life = self.life()?;
            if life.up && ready_made && life.building.is_none() && life.instance.is_none() {
                // Its blocking run panicked after it had timed out. That there is no other instance is detected late.
                life.may_begin(at, paused)?;
                (life.building, life.configured) = (Some(at), Some(How::Badly(Advice::Fatal)));
            }
            must!(life.building.take().is_some(), "a failure, but nothing was in progress");
            must!(number == runs, "`configure` failed for run {number}, after run {runs}");
            let how = life.configured.take();
            must!(kind == kind_of(how) && how.is_some(), "{kind:?}, but `configure` ended as {how:?}");
            (life.free, life.asked) = (at, None);
            decision = advised(advice(how), past);
            (waiting, took) = (std::mem::take(&mut life.waiting), 0);
        }
        self.errors += 1;
        self.since_success += 1;
        self.last_error = Some(error.to_owned());
        let report = Answer::Ran { error: Some(error.to_owned()), processed: 0, failed: 0, again: false, took };
        self.resolve(waiting, &report);
        self.decide(at, stop.is_some(), ran, decision, decided, (failures, exhausted))
    }

    /// Decides what follows this failure, of which the number in a row is given, and whether it is past the limit.
    pub(super) fn decide(
        &mut self,
        at: Ms,
        stopping: bool,
        ran: bool,
        decision: Decision,
        decided: Decision,
        (failures, past): (u32, bool),
    ) -> Checked {
        let (part, retry_delay) = (self.part.clone(), self.retry_delay);
        let gives_up = self.gives_up();
        let ready_made = part.origin == Origin::ReadyMade;
        let life = self.life()?;
        life.api_is_back = false;
        life.awaits_api = part.needs_api && matches!(decision, Decision::Retry | Decision::Rebuild);
        let mut verdict = match decision {
            Decision::Retry | Decision::RetryAfter(_) | Decision::Rebuild if past => {
                if gives_up {
                    Verdict::GiveUp { ran }
                } else {
                    Verdict::Fail
                }
            }
            Decision::Retry | Decision::Rebuild => Verdict::Retry(retry_wait(&part, retry_delay, failures)),
            Decision::RetryAfter(wait) => Verdict::Retry(wait),
            Decision::Ignore => Verdict::Regular,
            Decision::Stop => Verdict::Stop,
            Decision::Fail => Verdict::Fail,
        };
        if let Some(instance) = &mut life.instance {
            instance.broken |= decision == Decision::Rebuild && matches!(verdict, Verdict::Retry(_));
        }
        let broken = life.instance.as_ref().is_some_and(|instance| instance.broken);
        if broken && ready_made && verdict != Verdict::Stop {
            verdict = Verdict::Fail;
        }
        let right = if verdict == Verdict::Fail { Decision::Fail } else { decision };
        must!(decided == right, "reported as {decided:?}, but it is {right:?}");
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
        if decided != Decision::Ignore {
            self.failures = failures;
        }
        let planned = matches!(verdict, Verdict::Regular | Verdict::GiveUp { .. });
        if !broken {
            self.carry_out(at)?;
        } else if planned && !self.life()?.goes_by_cron() {
            // Options that change during the `cleanup` apply after it.
            self.life()?.plan_regular(at)?;
        }
        self.renew_without(at)
    }

    /// Carries out the decision after a failure, now that nothing prevents it.
    pub(super) fn carry_out(&mut self, at: Ms) -> Checked {
        let (schedule, part, announced) = (self.schedule, self.part.clone(), (self.runs, self.failures));
        let life = self.life()?;
        match life.verdict {
            Some(Verdict::Retry(wait)) => {
                life.plan = Some(Window::at(at + wait, Kind::Retry));
                (life.retrying, life.left, life.verdict) = (true, true, None);
                self.api_is_back_already(at);
            }
            Some(Verdict::Regular) => {
                if life.plan.is_none() {
                    life.plan_regular(at)?;
                }
                life.verdict = None;
            }
            Some(Verdict::GiveUp { ran }) => {
                if !ran {
                    let began = life.began;
                    let timetable = life.timetable.get_or_insert_with(|| Timetable::new(schedule, &part, began).0);
                    life.plan = timetable.next_without_run(at);
                } else if life.plan.is_none() {
                    life.plan_regular(at)?;
                }
                (life.retrying, life.left, life.verdict, life.builds_for) = (false, true, None, None);
                self.all_given_up += 1;
                (self.given_up, self.unreported) = (true, Some(announced));
            }
            Some(Verdict::Stop | Verdict::Restart | Verdict::Renew | Verdict::Fail) | None => {}
        }
        Ok(())
    }

    pub(super) fn aborted(&mut self, at: Ms) -> Checked {
        let drain = self.part.drain;
        if self.stray_is_aborted(at) {
            return Ok(());
        }
        let life = self.life()?;
        let since = match &life.instance {
            Some(Instance { cleaning: Some(since), .. }) => *since,
            _ => {
                let asked = [life.stop, life.told].into_iter().flatten().min();
                asked.ok_or("an abort without a stop")?.max(life.building.unwrap_or_default())
            }
        };
        let took = at - since;
        must!(took == drain || (life.hurried && took <= drain), "aborted after {took} ms, but it may take {drain} ms");
        if life.building.take().is_some() {
            life.free = at;
        } else if life.run.is_some() {
            life.aborted = true;
        }
        Ok(())
    }

    // ── the end of an instance ───────────────────────────────────────────────────────────────────────────────────

    pub(super) fn cleanup_began(&mut self, at: Ms, serial: u32) -> Checked {
        if let Some(stray) = self.strays.get_mut(&serial) {
            return stray.cleanup_began(at);
        }
        let life = self.life()?;
        must!(life.run.is_none(), "`cleanup` begins during a run");
        let ends = life.stop.is_some() || life.renew || matches!(life.verdict, Some(Verdict::Fail | Verdict::Restart));
        let since = life.stop.unwrap_or_default().max(life.free);
        let Some(instance) = &mut life.instance else { return Err("`cleanup` without an instance".to_owned()) };
        must!(instance.serial == serial, "`cleanup` of another instance");
        must!(instance.cleaning.is_none(), "`cleanup` is called twice");
        must!(!instance.away, "`cleanup` begins during a blocking run");
        must!(ends || instance.broken || instance.discard, "`cleanup` of an instance that is still needed");
        must!(at == since, "`cleanup` begins at {at}, and must begin at {since}");
        instance.cleaning = Some(at);
        Ok(())
    }

    pub(super) fn dropped(&mut self, serial: u32) -> Checked {
        if self.made.remove(&serial) || self.forgotten.remove(&serial) {
            return Ok(());
        }
        if let Some(stray) = self.strays.get_mut(&serial) {
            return stray.dropped();
        }
        let instance = self.life()?.instance.as_mut().filter(|instance| instance.serial == serial);
        let Some(instance) = instance else { return Err(format!("instance {serial} still existed after its end")) };
        must!(instance.cleaning.is_some(), "dropped without `cleanup`");
        instance.dropped = true;
        Ok(())
    }

    pub(super) fn instance_ended(&mut self, at: Ms) -> Checked {
        let drain = self.part.drain;
        if self.stray_ended(at)? {
            return Ok(());
        }
        let life = self.life()?;
        let Some(instance) = life.instance.take() else { return Err("an unknown instance ends".to_owned()) };
        let since = instance.cleaning.ok_or("an instance ended without `cleanup`")?;
        must!(instance.dropped, "an instance has ended, but was not dropped");
        must!(at - since <= drain, "`cleanup` took {} ms, but it may take {drain} ms", at - since);
        life.free = at;
        if instance.broken {
            self.carry_out(at)?;
        }
        let life = self.life()?;
        if let Some(timetable) = life.timetable.as_mut().filter(|timetable| timetable.is_changed()) {
            timetable.settle();
            life.plan = life.plan.map(|plan| timetable.changed(plan, at));
        }
        if life.renew && !matches!(life.verdict, Some(Verdict::Fail | Verdict::Restart | Verdict::Stop)) {
            // If it backs off first, it continues at the same moment.
            let retrying = life.retrying;
            if !(retrying && instance.broken) || life.stop.is_some() || self.paused {
                self.life()?.renew_at(at);
                self.forget_failures();
            }
        }
        Ok(())
    }

    pub(super) fn restarts(&mut self, at: Ms, after: Ms) -> Checked {
        let delay = self.part.restart.map(|restart| restart.delay);
        must!(delay == Some(after), "a restart after {after} ms, but `restart_delay` is {delay:?}");
        let life = self.life()?;
        must!(life.verdict == Some(Verdict::Restart), "a restart, but {:?} was decided", life.verdict);
        let out_of_the_way = life.instance.is_none() || life.is_away();
        must!(out_of_the_way && life.free == at, "a restart while the old instance exists");
        life.discard();
        (life.verdict, life.retrying, life.left) = (None, true, true);
        life.plan = Some(Window::at(at + after, Kind::Retry));
        life.awaits_api = false;
        self.failures = 0;
        self.restarts += 1;
        Ok(())
    }

    pub(super) fn permit(&mut self, at: Ms) -> Checked {
        let Some((most, per)) = self.part.rate else { return Err("a permit without a limit".to_owned()) };
        self.permits.push_back(at);
        if self.permits.len() > most {
            let earlier = self.permits.pop_front().unwrap_or_default();
            must!(at - earlier >= per, "{} permits within {} ms", most + 1, at - earlier);
        }
        Ok(())
    }
}

impl Life {
    /// Checks that a run, or the building of an instance for it, may begin at this moment.
    pub(super) fn may_begin(&self, at: Ms, paused: bool) -> Checked {
        must!(self.stop.is_none(), "a run or a build begins after a stop");
        let broken = self
            .instance
            .as_ref()
            .is_some_and(|instance| instance.broken || instance.discard || instance.cleaning.is_some());
        must!(!broken, "a run begins with an instance that has ended");
        must!(!self.is_away(), "a run begins while a blocking run that timed out still runs");
        if let Some(asked) = self.asked {
            let due = asked.max(self.free);
            // A run that is due anyway at the same moment also answers the request.
            must!(at == due, "a run that was requested at {asked} begins at {at}, and must begin at {due}");
            return Ok(());
        }
        if let Some(woken) = self.woken_at().filter(|woken| !paused && *woken <= at) {
            must!(at == woken, "begins at {at}, but it was woken and must begin at {woken}");
            return Ok(());
        }
        must!(!paused, "a scheduled run while paused");
        let plan = self.plan.ok_or("a run begins that was not planned")?;
        let latest = plan.to.max(self.free);
        must!(plan.from <= at, "begins at {at}, before it is due: {plan:?}");
        must!(at <= latest, "begins at {at}, late: {plan:?}, free since {}", self.free);
        Ok(())
    }

    pub(super) fn plan_regular(&mut self, at: Ms) -> Checked {
        let timetable = self.timetable.as_mut().ok_or("a regular run before the service was ready")?;
        self.plan = timetable.next(at);
        Ok(())
    }

    /// Returns when the wake-up must be served. A retry is not made earlier.
    pub(super) fn woken_at(&self) -> Option<Ms> {
        self.woken.filter(|_| !self.retrying).map(|woken| woken.max(self.free))
    }

    fn goes_by_cron(&self) -> bool {
        self.timetable.as_ref().is_some_and(Timetable::is_by_cron)
    }

    /// Plans a fresh instance at once. If the run has left nothing to do, a schedule that does not begin with a run
    /// stays.
    pub(super) fn renew_at(&mut self, at: Ms) {
        let has_failed = self.retrying || self.verdict == Some(Verdict::Renew);
        let waits = self.timetable.as_ref().is_some_and(Timetable::begins_without_run)
            && self.plan.is_none_or(|plan| plan.kind == Kind::Regular);
        if has_failed || !waits {
            self.plan = Some(Window::at(at, Kind::AtOnce));
        }
        (self.renew, self.retrying, self.verdict) = (false, false, None);
    }

    /// Tells a long run to end.
    pub(super) fn tell(&mut self, at: Ms, is_long: bool) {
        if is_long && self.run.is_some() {
            self.told.get_or_insert(at);
        }
    }

    /// Whether it has left `Starting`.
    pub(super) fn is_up(&self) -> bool {
        self.ready || self.left
    }

    pub(super) fn is_over(&self) -> bool {
        self.run.is_none() && self.building.is_none()
    }
}

fn advice(how: Option<How>) -> Advice {
    match how {
        Some(How::Badly(advice)) => advice,
        _ => Advice::None,
    }
}

/// Returns the default decision.
fn advised(advice: Advice, past: bool) -> Decision {
    match advice {
        Advice::Fatal => Decision::Fail,
        _ if past => Decision::Fail,
        Advice::RetryAfter(wait) => Decision::RetryAfter(wait),
        Advice::None => Decision::Retry,
    }
}

/// Returns the kind of a failure. Code that did not end by itself was cancelled.
fn kind_of(how: Option<How>) -> FailureKind {
    match how {
        Some(How::Panics) => FailureKind::Panic,
        Some(_) => FailureKind::Error,
        None => FailureKind::Timeout,
    }
}
