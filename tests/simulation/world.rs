//! The data that all parts of one simulation share: the registry, the trace, the model that checks it, and random
//! numbers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context as Task, Poll, Waker};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use futures_core::Stream;
use service_core::prelude::*;
use service_core::{ServiceEvent, ServiceEventKind};
use tokio::time::Instant;

use crate::cast::{self, HOUR, MINUTE, Part, SECOND};
use crate::model::{Model, Tally};
use crate::stage::Stage;
use crate::trace::{Answer, Ask, Line, Ms, Trace, What, millis};

type Events = Pin<Box<dyn Stream<Item = ServiceEvent> + Send>>;

pub(crate) struct World {
    pub(crate) cast: Arc<Vec<Part>>,
    pub(crate) stage: Arc<Stage>,
    registry: OnceLock<ServiceRegistry>,
    start: Instant,
    wall: SystemTime,
    inner: Mutex<Inner>,
}

struct Inner {
    events: Option<Events>,
    trace: Trace,
    model: Model,
    /// For each service: its random numbers, and until when its day is good or bad.
    tempers: Vec<(Rng, Ms, bool)>,
    contexts: Vec<Option<Context>>,
    /// When the schedule of each service was last changed.
    changed: Vec<Option<Ms>>,
    serial: u32,
    asks: u32,
    /// The first error, and its service.
    broken: Option<(usize, String)>,
    /// When the API is down, and the last result of its probe.
    outages: Vec<(Ms, Ms)>,
    seen_down: bool,
    /// No service is started any more.
    over: bool,
    closed: bool,
}

/// The result of a simulation.
pub(crate) struct Verdict {
    pub(crate) hash: u64,
    pub(crate) lines: u64,
    pub(crate) tally: Tally,
    /// The first error, with the end of the trace.
    pub(crate) broken: Option<String>,
}

impl World {
    pub(crate) fn new(cast: Vec<Part>, stage: Arc<Stage>, wall: SystemTime, rng: &mut Rng, end: Ms) -> Arc<Self> {
        let cast = Arc::new(cast);
        let inner = Inner {
            events: None,
            trace: Trace::default(),
            model: Model::new(&cast),
            tempers: cast.iter().map(|_| (rng.fork(), 0, true)).collect(),
            contexts: cast.iter().map(|_| None).collect(),
            changed: vec![None; cast.len()],
            serial: 0,
            asks: 0,
            broken: None,
            outages: outages(rng, end),
            seen_down: false,
            over: false,
            closed: false,
        };
        let (registry, start) = (OnceLock::new(), Instant::now());
        Arc::new(Self { cast, stage, registry, start, wall, inner: Mutex::new(inner) })
    }

    pub(crate) fn open(&self, registry: &ServiceRegistry) {
        self.lock().events = Some(Box::pin(registry.subscribe()));
        assert!(self.registry.set(registry.clone()).is_ok(), "a world has one registry");
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics in the simulation's own code")
    }

    pub(crate) fn registry(&self) -> ServiceRegistry {
        self.registry.get().expect("the world is open").clone()
    }

    pub(crate) fn now(&self) -> Ms {
        millis(self.start.elapsed())
    }

    pub(crate) async fn sleep_until(&self, at: Ms) {
        tokio::time::sleep_until(self.start + Duration::from_millis(at)).await;
    }

    pub(crate) fn index(&self, id: &str) -> usize {
        cast::index(id).expect("`cast` has made all ids")
    }

    pub(crate) fn next_serial(&self) -> u32 {
        let mut inner = self.lock();
        inner.serial += 1;
        inner.serial
    }

    /// Chooses by a service's own random numbers. A service has good and bad days.
    pub(crate) fn draw<T>(&self, service: usize, draw: impl FnOnce(&Part, bool, &mut Rng) -> T) -> T {
        let now = self.now();
        let mut inner = self.lock();
        let away = self.cast[service].needs_api && inner.is_api_down(now);
        let (rng, until, bad) = &mut inner.tempers[service];
        if now >= *until {
            *bad = !*bad;
            *until = now + if *bad { rng.u64(0..12 * HOUR) } else { rng.u64(0..72 * HOUR) };
        }
        draw(&self.cast[service], *bad || away, rng)
    }

    /// What the probe of the API finds.
    pub(crate) fn check_api(&self) -> std::result::Result<(), &'static str> {
        let now = self.now();
        let mut inner = self.lock();
        let down = inner.is_api_down(now);
        let is_news = std::mem::replace(&mut inner.seen_down, down) != down;
        drop(inner);
        if is_news {
            self.say(0, What::Probe { down });
        }
        if down { Err("connection refused") } else { Ok(()) }
    }

    /// Keeps a service's context, so that its options can be changed at any moment.
    pub(crate) fn remember(&self, service: usize, cx: &Context) {
        let earlier = self.lock().contexts[service].replace(cx.clone());
        drop(earlier);
    }

    pub(crate) fn remembered(&self, service: usize) -> Option<Context> {
        self.lock().contexts[service].clone()
    }

    /// Returns whether a service's schedule was not changed yet at this moment: for two changes at once, the contract
    /// does not say which one has an effect.
    pub(crate) fn may_change_schedule(&self, service: usize) -> bool {
        let now = self.now();
        self.lock().changed[service].replace(now) != Some(now)
    }

    // ── the trace ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds a line to the trace, after all events that came before it.
    pub(crate) fn say(&self, service: usize, what: What) {
        let mut inner = self.look();
        let mut touched = Touched::default();
        self.take(&mut inner, Line { at: self.now(), service, what }, &mut touched);
        self.compare(inner, touched, false);
    }

    /// Fetches the waiting events.
    fn look(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        let touched = self.fetch(&mut inner);
        self.compare(inner, touched, false);
        self.lock()
    }

    fn fetch(&self, inner: &mut Inner) -> Touched {
        let mut touched = Touched::default();
        let Some(mut events) = inner.events.take() else { return touched };
        let mut task = Task::from_waker(Waker::noop());
        // Outside tokio's budget, so that every waiting event is read.
        let mut next = tokio::task::unconstrained(std::future::poll_fn(|task| match events.as_mut().poll_next(task) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            _ => Poll::Pending,
        }));
        while let Poll::Ready(event) = Pin::new(&mut next).poll(&mut task) {
            if let ServiceEventKind::Lagged { missed } = event.kind {
                inner.broken.get_or_insert((0, format!("{missed} events were lost")));
                continue;
            }
            let at = millis(event.at.duration_since(self.wall).expect("the clock begins with the simulation"));
            let line = Line { at, service: self.index(&event.service_id), what: What::of(event.kind) };
            self.take(inner, line, &mut touched);
        }
        drop(next);
        inner.events = Some(events);
        touched
    }

    fn take(&self, inner: &mut Inner, line: Line, touched: &mut Touched) {
        let service = line.service;
        if matches!(line.what, What::RunStarted { .. }) && self.cast[service].blocking {
            self.stage.expect(service);
        }
        if inner.broken.is_some() || inner.closed {
            return;
        }
        if matches!(line.what, What::Unregistered) {
            touched.dropped.extend(inner.contexts[service].take());
        }
        let shows = line.what.shows_in_health();
        let checked = inner.model.take(&line);
        inner.trace.push(line);
        if let Err(why) = checked {
            inner.broken = Some((service, why));
        }
        if shows && touched.services.last() != Some(&service) {
            touched.services.push(service);
        }
    }

    /// Compares the registry's health with the model.
    fn compare(&self, mut inner: MutexGuard<'_, Inner>, touched: Touched, settled: bool) {
        let now = self.now();
        if let (Some(registry), None, false) = (self.registry.get(), &inner.broken, inner.closed) {
            for service in touched.services {
                let health = registry.get(&self.cast[service].id).map(|handle| handle.health());
                if let Err(why) = inner.model.compare(service, now, health.as_ref(), self.wall, settled) {
                    inner.broken = Some((service, why));
                    break;
                }
            }
        }
        drop(inner);
        drop(touched.dropped);
    }

    /// Lets blocking runs continue: nothing else is left to do at this moment.
    pub(crate) fn conduct(&self) {
        drop(self.look());
        self.stage.conduct(self.now());
    }

    // ── for the operator ─────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn asks(&self, service: usize, ask: Ask, within: bool) -> u32 {
        let n = {
            let mut inner = self.lock();
            inner.asks += 1;
            inner.asks
        };
        self.say(service, What::Ask { n, ask, within });
        n
    }

    pub(crate) fn answers(&self, service: usize, n: u32, answer: Answer) {
        self.say(service, What::Answer { n, answer });
    }

    /// Whether nothing may be started, because all services are being stopped.
    pub(crate) fn is_quiet(&self) -> bool {
        let now = self.now();
        let inner = self.look();
        inner.over || inner.model.is_quiet(now)
    }

    /// The last shutdown is about to begin.
    pub(crate) fn wind_up(&self) {
        self.lock().over = true;
    }

    pub(crate) fn state(&self, service: usize) -> Option<ServiceState> {
        self.look().model.state(service)
    }

    /// Returns the percentage of services that do not run.
    pub(crate) fn share_down(&self) -> usize {
        let inner = self.look();
        let down = |service| !inner.model.state(service).is_some_and(ServiceState::is_running);
        (0..self.cast.len()).filter(|service| down(*service)).count() * 100 / self.cast.len()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.look().broken.is_some()
    }

    /// Checks that every service has done what it must have done by now.
    pub(crate) fn look_round(&self) {
        let now = self.now();
        let mut inner = self.look();
        if inner.broken.is_none()
            && let Err(broken) = inner.model.look_round(now)
        {
            inner.broken = Some(broken);
        }
        let services = (0..self.cast.len()).collect();
        self.compare(inner, Touched { services, dropped: Vec::new() }, true);
    }

    /// Ends the simulation: later lines are not part of the trace.
    pub(crate) fn close(&self) {
        let mut inner = self.look();
        if inner.broken.is_none()
            && let Err(broken) = inner.model.end()
        {
            inner.broken = Some(broken);
        }
        inner.closed = true;
        let contexts = std::mem::take(&mut inner.contexts);
        drop(inner);
        drop(contexts);
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let inner = self.lock();
        let broken = inner.broken.as_ref().map(|(service, why)| {
            let (part, mut text) =
                (&self.cast[*service], format!("s{service:02}: {why}\n\n{:?}\n", self.cast[*service]));
            let deps = &part.depends_on;
            let mut section = |title: &str, lines: Vec<String>| {
                text += &format!("\n{title}\n  {}\n", lines.join("\n  "));
            };
            section("the last lines of all services:", inner.trace.tail(12, |_| true));
            if !deps.is_empty() {
                section("of its dependencies:", inner.trace.tail(12, |line| deps.contains(&line.service)));
            }
            section("of this service:", inner.trace.tail(40, |line| line.service == *service));
            text
        });
        Verdict { hash: inner.trace.hash(), lines: inner.trace.lines, tally: inner.model.tally(), broken }
    }
}

impl Inner {
    fn is_api_down(&self, now: Ms) -> bool {
        self.outages.iter().any(|(from, to)| (*from..*to).contains(&now))
    }
}

/// When the API is down, until the end of the simulation.
fn outages(rng: &mut Rng, end: Ms) -> Vec<(Ms, Ms)> {
    let (mut outages, mut at) = (Vec::new(), 0);
    while at < end {
        let from = at + rng.u64(HOUR..48 * HOUR);
        at = from + *cast::pick(rng, &[SECOND, 30 * SECOND, 10 * MINUTE, HOUR, 5 * HOUR, 24 * HOUR]);
        outages.push((from, at));
    }
    outages
}

/// The services of the new lines, and contexts to be dropped outside the lock.
#[derive(Default)]
struct Touched {
    services: Vec<usize>,
    dropped: Vec<Context>,
}
