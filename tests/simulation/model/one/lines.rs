//! The lines of one service: its states and incarnations, and how its instances are built.

use service_core::prelude::*;

use super::*;

impl One {
    // ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn take(&mut self, line: &Line) -> Checked {
        let at = line.at;
        must!(at >= self.last_line, "time goes backwards");
        self.last_line = at;
        match &line.what {
            What::State { from, to } => {
                must!(*from == self.state, "a step from {from}, but the state is {}", self.state);
                must!(is_legal(*from, *to), "an illegal step from {from} to {to}");
                self.step(at, *to)?;
                self.state = *to;
            }
            What::Registered => {
                must!(!self.registered, "registered twice");
                let (part, made) = (self.part.clone(), std::mem::take(&mut self.made));
                let forgotten = std::mem::take(&mut self.forgotten);
                let strays = std::mem::take(&mut self.strays);
                let (all_runs, lives, registrations) = (self.all_runs, self.lives, self.registrations + 1);
                let (by_cron, strayed, all_given_up) = (self.by_cron, self.strayed, self.all_given_up);
                let (excused, api) = (self.excused, self.api);
                let reports = std::mem::take(&mut self.reports);
                *self = Self {
                    all_runs,
                    by_cron,
                    strayed,
                    all_given_up,
                    excused,
                    api,
                    lives,
                    registrations,
                    made,
                    forgotten,
                    strays,
                    reports,
                    last_line: at,
                    ..Self::new(&part)
                };
            }
            What::Unregistered => {
                must!(self.life.is_none() && !self.state.is_running(), "unregistered, but it still runs");
                self.registered = false;
                self.forgotten.append(&mut self.made);
            }
            What::ConfigureBegan => self.begin_building(at)?,
            What::ConfigureEnds(how) => {
                let life = self.life()?;
                must!(life.building.is_some(), "`configure` ends, but had not begun");
                life.configured = Some(*how);
            }
            What::Made { instance } => {
                self.made.insert(*instance);
            }
            What::Built => self.built(at)?,
            What::RunStarted { run } => self.run_started(at, *run)?,
            What::Began { instance, run } => {
                let known = self.life()?.instance.as_ref().map(|instance| (instance.serial, instance.broken));
                must!(
                    known == Some((*instance, false)),
                    "the run is of another instance, or of a broken one: {known:?}"
                );
                let Some(current) = &mut self.life()?.run else {
                    return Err("a run began without an event".to_owned());
                };
                must!(current.number == *run && current.started == at, "another run began");
                must!(!current.inside, "two runs at once");
                current.inside = true;
            }
            What::Ends { instance, how } => {
                if self.is_given_up(*instance) {
                    return self.ends_late(*instance, *how);
                }
                let Some(run) = &mut self.life()?.run else { return Err("a run continues after its end".to_owned()) };
                run.how = Some(*how);
            }
            What::Left { instance } => {
                if self.is_given_up(*instance) {
                    return self.returns_late(at, *instance);
                }
                let Some(run) = &mut self.life()?.run else { return Err("a run is left after its end".to_owned()) };
                must!(run.inside, "a run is left that had not begun");
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
            What::RunGivenUp { run, failures } => {
                let expected = self.unreported.take();
                must!(expected == Some((*run, *failures)), "run {run} was given up, and must be {expected:?}");
            }
            What::Aborted => self.aborted(at)?,
            What::CleanupBegan { instance } => self.cleanup_began(at, *instance)?,
            What::Dropped { instance } => self.dropped(*instance)?,
            What::Ended => self.instance_ended(at)?,
            What::Restart { after } => self.restarts(at, *after)?,
            What::OptionChanged { .. } => {}
            What::Permit => self.permit(at)?,
            What::Degraded => self.degraded = true,
            What::Ready => {
                self.degraded = false;
                let paused = self.paused;
                let life = self.life()?;
                if !life.ready && paused {
                    life.told.get_or_insert(at);
                }
                life.ready = true;
                life.run.as_mut().ok_or("it is ready without a run")?.reported = at;
            }
            What::Reports { processed, failed } => {
                self.processed += processed;
                self.failed_items += failed;
                let run = self.life()?.run.as_mut().ok_or("it reports items without a run")?;
                run.reported = at;
                run.items = (run.items.0 + processed, run.items.1 + failed);
            }
            What::Ask { .. } | What::Answer { .. } | What::GaveUp { .. } | What::Probe { .. } => {}
        }
        Ok(())
    }

    pub(super) fn step(&mut self, at: Ms, to: ServiceState) -> Checked {
        let paused = self.paused;
        if to == ServiceState::Starting {
            must!(self.start_wanted == Some(at), "starts without a request");
            self.begin_life(at);
            return Ok(());
        }
        let (state, drain) = (self.state, self.part.drain);
        let life = self.life()?;
        match to {
            ServiceState::Running => {
                must!(!paused || state == ServiceState::Starting, "is running, but it is paused");
                must!(life.is_up(), "is running, but it is not ready");
                if life.retrying && life.renew {
                    life.discard();
                    life.renew_at(at);
                    self.forget_failures();
                } else if life.retrying {
                    life.may_begin(at, false)?;
                }
            }
            ServiceState::Paused => must!(paused, "is paused without a request"),
            ServiceState::BackingOff => {
                must!(life.retrying && (!paused || state == ServiceState::Starting), "backs off without a failure");
            }
            ServiceState::Draining => {
                let by_itself = life.verdict == Some(Verdict::Stop);
                life.stop.get_or_insert(at);
                must!(by_itself || life.stop == Some(at), "drains, but the stop was requested at {:?}", life.stop);
            }
            ServiceState::Stopped => {
                let ends = life.stop.unwrap_or_default().max(life.free);
                life.ends(at, ends, drain)?;
                self.end_life();
            }
            ServiceState::Failed => {
                must!(life.verdict == Some(Verdict::Fail), "failed, but {:?} was decided", life.verdict);
                let ends = life.free;
                life.ends(at, ends, drain)?;
                self.failed_life = Some(self.lives);
                self.end_life();
            }
            other => return Err(format!("became {other}")),
        }
        Ok(())
    }

    pub(super) fn begin_life(&mut self, at: Ms) {
        self.start_wanted = None;
        self.lives += 1;
        (self.paused, self.degraded) = (false, false);
        self.forget_failures();
        self.life = Some(Life {
            stop: None,
            known: self.leaving,
            hurried: false,
            waits: false,
            tried: false,
            up: false,
            ready: false,
            left: false,
            told: None,
            timetable: None,
            building: None,
            configured: None,
            instance: None,
            run: None,
            plan: Some(Window::at(at, Kind::AtOnce)),
            asked: None,
            woken: None,
            builds_for: None,
            began: at,
            waiting: Vec::new(),
            free: at,
            verdict: None,
            retrying: false,
            failed_began: at,
            awaits_api: false,
            api_is_back: false,
            renew: false,
            aborted: false,
            granted: Vec::new(),
        });
    }

    pub(super) fn end_life(&mut self) {
        self.paused = false;
        if let Some(life) = self.life.take() {
            if let Some(instance) = life.instance {
                self.strays.insert(instance.serial, Stray::default());
            }
            self.resolve(life.waiting, &Answer::Refused("ended".to_owned()));
        }
    }

    // ── building ─────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn begin_building(&mut self, at: Ms) -> Checked {
        let paused = self.paused && self.state == ServiceState::Paused;
        let given_up = self.given_up;
        let life = self.life()?;
        must!(life.instance.is_none() && life.building.is_none(), "builds an instance while there is another");
        life.may_begin(at, paused)?;
        (life.tried, life.building, life.configured) = (true, Some(at), None);
        life.builds_for = life.builds_for.or(life.woken.take());
        if given_up && !life.retrying {
            self.failures = 0;
        }
        Ok(())
    }

    pub(super) fn built(&mut self, at: Ms) -> Checked {
        if self.part.origin == Origin::ReadyMade {
            must!(!self.used_up, "a ready-made instance was taken twice");
            self.used_up = true;
            self.begin_building(at)?;
        } else {
            let configured = self.life()?.configured;
            must!(matches!(configured, Some(How::Well { .. })), "built, but `configure` ended as {configured:?}");
        }
        must!(self.made.len() == 1, "built from {:?}", self.made);
        let serial = self.made.pop_first().unwrap_or_default();
        let (schedule, retry_delay, part) = (self.schedule, self.retry_delay, self.part.clone());
        let life = self.life()?;
        (life.building, life.free) = (None, at);
        life.instance = Some(Instance::new(serial));
        life.woken = life.builds_for.take().or(life.woken);
        if !life.up {
            // A run that was given up before has planned the next one.
            if life.timetable.is_none() {
                let (mut timetable, window) = Timetable::new(schedule, &part, at);
                timetable.retry_delay = retry_delay;
                (life.timetable, life.plan) = (Some(timetable), window);
            }
            (life.up, life.retrying) = (true, false);
            life.ready |= part.long.is_none_or(|long| !long.explicit);
            self.failures = 0;
        }
        Ok(())
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
