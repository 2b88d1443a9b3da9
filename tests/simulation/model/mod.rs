//! The model: what the trace may contain, derived from the contract alone (`docs/guarantees.md`).
//!
//! `one` models a single service. This file models what concerns several: dependencies, requests and their answers, and
//! the stop of all services. The tricky part is that a request takes effect when it is made, so the model predicts each
//! answer, and continues from its prediction.

mod health;
mod one;

use std::collections::BTreeMap;
use std::sync::Arc;

use service_core::prelude::*;

use crate::cast::{MINUTE, Part, SECOND};
use crate::trace::{Answer, Ask, Line, Ms, What};
use one::One;

type Checked = std::result::Result<(), String>;

macro_rules! must {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
use must;

/// How long a shutdown may take: the registry's default.
const SHUTDOWN: Ms = 25 * SECOND;

/// How often what was simulated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    /// Runs by a cron schedule.
    pub(crate) by_cron: u64,
    /// Blocking runs, and how many of them timed out or were aborted and continued.
    pub(crate) blocking: u64,
    pub(crate) strayed: u64,
    pub(crate) long: u64,
    /// Runs that were given up.
    pub(crate) given_up: u64,
    /// Failures past the limit that an outage excused.
    pub(crate) excused: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.by_cron += other.by_cron;
        self.blocking += other.blocking;
        self.strayed += other.strayed;
        self.long += other.long;
        self.given_up += other.given_up;
        self.excused += other.excused;
    }
}

pub(crate) struct Model {
    cast: Arc<Vec<Part>>,
    services: Vec<One>,
    /// Requests without an answer so far.
    asked: BTreeMap<u32, Asked>,
    /// Stops of all services that are in progress, and their deadlines.
    stopping: BTreeMap<u32, Option<Ms>>,
    /// A critical service has failed: until then all services must have stopped.
    closing: Option<Ms>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Asked {
    at: Ms,
    ask: Ask,
    within: bool,
    /// Whether it will be accepted.
    done: bool,
    /// The incarnation that it concerns.
    life: u32,
}

impl Model {
    pub(crate) fn new(cast: &Arc<Vec<Part>>) -> Self {
        let services = cast.iter().map(One::new).collect();
        Self { cast: cast.clone(), services, asked: BTreeMap::new(), stopping: BTreeMap::new(), closing: None }
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for one in &self.services {
            tally.runs += one.all_runs;
            tally.by_cron += one.by_cron;
            tally.strayed += one.strayed;
            tally.given_up += one.all_given_up;
            tally.excused += one.excused;
            if one.part.long.is_some() {
                tally.long += one.all_runs;
            }
            if one.part.blocking {
                tally.blocking += one.all_runs;
            }
        }
        tally
    }

    pub(crate) fn state(&self, service: usize) -> Option<ServiceState> {
        let one = &self.services[service];
        one.registered.then_some(one.state)
    }

    /// Whether all services are being stopped.
    pub(crate) fn is_quiet(&self, now: Ms) -> bool {
        !self.stopping.is_empty() || self.closing.is_some_and(|until| now <= until)
    }

    // ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn take(&mut self, line: &Line) -> Checked {
        let (at, service) = (line.at, line.service);
        self.close(at)?;
        self.services[service].settle(at);
        match &line.what {
            What::Ask { n, ask, within } => self.ask(at, service, *n, *ask, *within),
            What::Answer { n, answer } => self.answer(at, service, *n, answer),
            What::GaveUp { n } => {
                self.asked.remove(n);
                self.services[service].forget_waiter(*n);
                Ok(())
            }
            What::State { to, .. } => {
                if *to == ServiceState::Draining {
                    self.may_drain(service)?;
                }
                self.services[service].take(line)?;
                let is_end = *to == ServiceState::Stopped && self.services[service].take_shutdown();
                if is_end || (*to == ServiceState::Failed && self.cast[service].critical) {
                    self.closing = Some(at + SHUTDOWN);
                    self.hurry();
                }
                self.see_dependencies(at);
                Ok(())
            }
            What::ConfigureBegan | What::Built | What::Ready => {
                if !matches!(line.what, What::Ready) && self.services[service].begins_its_first_try() {
                    must!(self.dependencies_are_up(service), "is built before its dependencies are ready");
                }
                self.services[service].take(line)?;
                self.see_dependencies(at);
                Ok(())
            }
            What::Probe { down } => {
                for one in &mut self.services {
                    one.see_api(at, *down);
                }
                Ok(())
            }
            What::Unregistered | What::Registered => {
                self.services[service].take(line)?;
                self.see_dependencies(at);
                Ok(())
            }
            _ => self.services[service].take(line),
        }
    }

    fn dependencies_are_up(&self, service: usize) -> bool {
        let up = |on: &usize| {
            matches!(self.state(*on), Some(ServiceState::Running | ServiceState::Paused))
                && self.services[*on].came_up()
        };
        self.cast[service].depends_on.iter().all(up)
    }

    /// Updates which services wait for their dependencies.
    fn see_dependencies(&mut self, at: Ms) {
        for service in 0..self.services.len() {
            if !self.cast[service].depends_on.is_empty() {
                let up = self.dependencies_are_up(service);
                self.services[service].see_dependencies(at, up);
            }
        }
    }

    /// A service without a stop request of its own is stopped because all are: then it stops after the services that
    /// depend on it.
    fn may_drain(&self, service: usize) -> Checked {
        if self.services[service].knows_why_it_stops() {
            return Ok(());
        }
        must!(!self.stopping.is_empty() || self.closing.is_some(), "stops without a request");
        for (other, part) in self.cast.iter().enumerate() {
            let running = self.state(other).is_some_and(ServiceState::is_running);
            must!(
                !running || !part.depends_on.contains(&service),
                "stops before `s{other:02}`, which depends on it, has stopped"
            );
            must!(
                !running || !self.stops_last(service) || self.stops_last(other),
                "stops before `s{other:02}`, although it stops last"
            );
        }
        Ok(())
    }

    /// Whether it stops after all others: it has `stop_last`, or such a service depends on it.
    fn stops_last(&self, service: usize) -> bool {
        let needed = |other: usize| {
            self.services[other].registered && self.cast[other].depends_on.contains(&service) && self.stops_last(other)
        };
        self.cast[service].stop_last || (service + 1..self.cast.len()).any(needed)
    }

    /// A shutdown leaves less time than `drain_timeout`.
    fn hurry(&mut self) {
        for one in &mut self.services {
            one.hurry();
        }
    }

    // ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn ask(&mut self, at: Ms, service: usize, n: u32, ask: Ask, within: bool) -> Checked {
        let mut done = true;
        match ask {
            Ask::StartAll => {
                for one in self.services.iter_mut().filter(|one| one.part.enabled && one.may_start()) {
                    one.will_start(at);
                }
            }
            Ask::StopAll => {
                self.stopping.insert(n, None);
            }
            Ask::Shutdown => {
                self.stopping.insert(n, Some(at + SHUTDOWN));
                self.hurry();
            }
            Ask::PauseAll | Ask::ResumeAll => {
                let ask = if ask == Ask::PauseAll { Ask::Pause } else { Ask::Resume };
                for one in self.services.iter_mut().filter(|one| one.registered) {
                    one.ask(at, n, ask, false);
                }
            }
            Ask::Notify(topic) => {
                for one in self.services.iter_mut().filter(|one| one.registered && one.part.wake_on.contains(&topic)) {
                    one.ask(at, n, Ask::Wake, false);
                }
            }
            Ask::Register => {
                let known = |on: &usize| self.services[*on].registered;
                done = !self.services[service].registered && self.cast[service].depends_on.iter().all(known);
            }
            _ => done = self.services[service].ask(at, n, ask, within),
        }
        let life = self.services[service].lives;
        self.asked.insert(n, Asked { at, ask, within, done, life });
        Ok(())
    }

    fn answer(&mut self, at: Ms, service: usize, n: u32, answer: &Answer) -> Checked {
        let asked = self.asked.remove(&n).ok_or("an answer without a request")?;
        let one = &mut self.services[service];
        let (ask, took) = (asked.ask, at - asked.at);
        if !asked.done {
            must!(matches!(answer, Answer::Refused(_)), "{ask:?} must be refused, and is not");
            must!(took == 0, "{ask:?} is refused only after {took} ms");
            return Ok(());
        }
        match ask {
            Ask::Shutdown => {
                self.stopping.remove(&n);
                must!(took <= SHUTDOWN, "the shutdown took {took} ms");
                self.all_are_down()?;
                let failed = self.services.iter().any(|one| one.registered && one.state == ServiceState::Failed);
                must!(failed == (*answer != Answer::Done), "the result of the shutdown is wrong: {answer:?}");
            }
            Ask::StopAll => {
                self.stopping.remove(&n);
                self.all_are_down()?;
            }
            Ask::StartAll => {
                must!(*answer == Answer::Done, "{answer:?}");
                must!(took <= MINUTE / 2, "the start of all took {took} ms");
            }
            Ask::RunNow if asked.within => must!(matches!(answer, Answer::Ran { .. }), "{answer:?}"),
            Ask::RunNow => one.reports(n, answer)?,
            Ask::Start | Ask::Reset if asked.within => must!(*answer == Answer::Done, "{answer:?}"),
            Ask::Start | Ask::Reset => {
                must!(took <= MINUTE / 2, "{ask:?} took {took} ms");
                // The request concerns the next incarnation.
                if *answer != Answer::Done {
                    must!(one.failed_life == Some(asked.life + 1), "{ask:?} must not fail: {answer:?}");
                }
            }
            Ask::Stop if !asked.within => {
                must!(*answer == Answer::Done, "{answer:?}");
                must!(
                    one.lives != asked.life || !one.state.is_running(),
                    "`stop` has returned, but the service still runs"
                );
            }
            Ask::Unregister if !asked.within => {
                must!(*answer == Answer::Done, "{answer:?}");
                must!(one.registrations != 0, "unregistered, but never registered");
            }
            _ => must!(*answer == Answer::Done, "{ask:?} was refused: {answer:?}"),
        }
        Ok(())
    }

    /// After the failure of a critical service, all services stop in time.
    fn close(&mut self, now: Ms) -> Checked {
        if self.closing.is_none_or(|until| now <= until) {
            return Ok(());
        }
        self.closing = None;
        self.all_are_down()
    }

    fn all_are_down(&self) -> Checked {
        for (service, one) in self.services.iter().enumerate() {
            must!(
                !one.registered || !one.state.is_running(),
                "all services were stopped, but `s{service:02}` still runs"
            );
        }
        Ok(())
    }

    // ── checks between events ────────────────────────────────────────────────────────────────────────────────────

    /// Checks that every service has done what it must have done by now.
    pub(crate) fn look_round(&mut self, now: Ms) -> std::result::Result<(), (usize, String)> {
        self.close(now).map_err(|why| (0, why))?;
        for (service, one) in self.services.iter_mut().enumerate() {
            one.look(now).map_err(|why| (service, why))?;
        }
        Ok(())
    }

    /// Checks that nothing is left at the end.
    pub(crate) fn end(&self) -> std::result::Result<(), (usize, String)> {
        for (service, one) in self.services.iter().enumerate() {
            one.end().map_err(|why| (service, why))?;
        }
        match self.asked.iter().next() {
            Some((n, asked)) => Err((0, format!("request {n} was never answered: {asked:?}"))),
            None => Ok(()),
        }
    }
}
