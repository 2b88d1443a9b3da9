//! Detects that virtual time does not move: if a service runs again and again at one moment, or one run never waits,
//! the test never waits, and a paused clock only advances when every task waits.
//!
//! The tricky part is that only real time can reveal this. A thread wakes the caller from time to time. The decision
//! counts the runs and the polls at one moment of virtual time, so it does not depend on the machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant as RealInstant};

use tokio::time::Instant;

use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::shared::Polls;
use crate::sync::Mutex;
use crate::testing::clock_gate::ClockGate;

/// More runs than this at one moment count as endless.
const MOST_RUNS: u64 = 100_000;
/// More polls of a service's code than this at one moment count as endless. A run may process a million rows at one
/// moment. A poll that tokio interrupts, because it never waits, takes longer and counts as several.
const MOST_POLLS: u64 = 5_000_000;
/// For so long in real time, blocking code may keep virtual time from moving while nothing else happens. It does not
/// end by itself if it waits, in its own way, for what only happens when time moves.
const MOST_REAL_TIME: Duration = Duration::from_secs(30);
/// The real time between two checks.
const LOOK: Duration = Duration::from_millis(200);

/// The callers that wait for virtual time. A thread wakes them as long as the process lives.
static CALLERS: LazyLock<Arc<Mutex<Vec<Waker>>>> = LazyLock::new(|| {
    let callers: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let wakes = callers.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK);
            let wakers = std::mem::take(&mut *wakes.lock());
            wakers.into_iter().for_each(Waker::wake);
        }
    });
    callers
});

/// What may keep virtual time from moving.
pub(super) struct Watched {
    /// The services of all beds of the runtime.
    services: Vec<Arc<Services>>,
    /// An instance that runs without a loop.
    instance: Option<Arc<ServiceInner>>,
}

impl Watched {
    /// All beds of a runtime.
    pub(super) fn all(gate: &Mutex<ClockGate>) -> Self {
        Self { services: gate.lock().services(), instance: None }
    }

    pub(super) fn and(self, instance: Arc<ServiceInner>) -> Self {
        Self { instance: Some(instance), ..self }
    }

    /// Each service, with the number of its registry.
    fn each(&self) -> impl Iterator<Item = (usize, Arc<ServiceInner>)> {
        let registered = self.services.iter().enumerate().flat_map(|(registry, services)| {
            services.all().into_iter().map(move |service| (registry, service.inner.clone()))
        });
        registered.chain(self.instance.iter().map(|instance| (self.services.len(), instance.clone())))
    }
}

/// Awaits `work`, which waits for virtual time.
///
/// # Panics
/// A service keeps virtual time from moving.
pub(super) async fn watch<T>(watched: Watched, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut checked = RealInstant::now();
    let mut moment = None;
    std::future::poll_fn(|task| {
        if let Poll::Ready(done) = work.as_mut().poll(task) {
            return Poll::Ready(done);
        }
        let now = RealInstant::now();
        if now.saturating_duration_since(checked) >= LOOK {
            checked = now;
            moment.get_or_insert_with(|| Moment::new(&watched, now)).check(&watched, now);
        }
        let mut callers = CALLERS.lock();
        if !callers.iter().any(|waker| waker.will_wake(task.waker())) {
            callers.push(task.waker().clone());
        }
        Poll::Pending
    })
    .await
}

/// What each service had done when this moment of virtual time was first seen.
struct Moment {
    at: Instant,
    /// The runs and polls that were seen last, and since when there are no others.
    seen: (u64, RealInstant),
    /// By the number of the registry and the id.
    done: BTreeMap<(usize, Arc<str>), Done>,
}

#[derive(Clone, Copy)]
struct Done {
    /// Runs, and failures to build an instance.
    runs: u64,
    /// Polls of its code.
    polls: u64,
}

impl Moment {
    fn new(watched: &Watched, now: RealInstant) -> Self {
        let done = watched.each().map(|(registry, service)| ((registry, service.id.clone()), Done::by(&service)));
        Self { at: Instant::now(), seen: (0, now), done: done.collect() }
    }

    fn check(&mut self, watched: &Watched, real_now: RealInstant) {
        if self.at != Instant::now() {
            *self = Self::new(watched, real_now);
            return;
        }
        let services = &watched.services;
        let mut sum = services.iter().filter_map(|services| services.shared.polls.as_ref()).map(Polls::all).sum();
        for (registry, service) in watched.each() {
            let (id, now) = (&service.id, Done::by(&service));
            let before = *self.done.entry((registry, id.clone())).or_insert(now);
            sum += now.runs;
            let runs = now.runs.saturating_sub(before.runs);
            assert!(
                runs <= MOST_RUNS,
                "service `{id}` keeps virtual time from moving: it has run {runs} times at one moment; it returns `again()` \
                 without an end, wakes itself, or retries without a delay"
            );
            let polls = now.polls.saturating_sub(before.polls);
            assert!(
                polls <= MOST_POLLS,
                "service `{id}` keeps virtual time from moving: its code was polled {polls} times at one moment; it never waits \
                 for a time, such as in a loop around a channel that always has a message"
            );
        }
        let holder = services.iter().find_map(|services| services.shared.holds.longest());
        let Some(id) = holder.filter(|_| self.seen.0 == sum) else {
            self.seen = (sum, real_now);
            return;
        };
        let stands_still = real_now.saturating_duration_since(self.seen.1);
        assert!(
            stands_still < MOST_REAL_TIME,
            "service `{id}` keeps virtual time from moving: its blocking code has not returned for {} s of real time; if it waits for a \
             time, use `cx.blocking_sleep`, as time stands still while it waits in another way",
            stands_still.as_secs()
        );
    }
}

impl Done {
    fn by(service: &ServiceInner) -> Self {
        let polls = service.shared.polls.as_ref().map_or(0, |polls| polls.of(&service.id));
        let stats = &service.lock().status.stats;
        Self { runs: stats.runs + stats.errors, polls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, Sources};
    use crate::runtime::shared::Shared;

    fn services() -> Arc<Services> {
        let shared = Shared { polls: Some(Polls::default()), ..Shared::default() };
        Arc::new(Services::new(Arc::new(shared), Sources::load(Inputs::default()), Vec::new()))
    }

    /// Checks twice at the same moment of virtual time, the second time 31 s of real time later.
    fn check_twice(services: Arc<Services>, between: impl FnOnce(&Shared)) {
        let (watched, now) = (Watched { services: vec![services], instance: None }, RealInstant::now());
        let later = now + MOST_REAL_TIME + Duration::from_secs(1);
        let mut moment = Moment::new(&watched, now);
        moment.check(&watched, now);
        between(&watched.services[0].shared);
        moment.check(&watched, later);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(
        expected = "service `reader` keeps virtual time from moving: its blocking code has not returned for 31 s"
    )]
    async fn blocking_code_that_waits_for_time_in_its_own_way_ends_the_test() {
        let services = services();
        services.shared.holds.add("reader".into());
        check_twice(services, |_| {});
    }

    #[tokio::test(start_paused = true)]
    async fn blocking_code_may_take_long_while_other_services_run() {
        let services = services();
        services.shared.holds.add("reader".into());
        check_twice(services, |shared| shared.polls.as_ref().expect("it counts").count(&"writer".into(), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_blocking_code_real_time_does_not_matter() {
        let services = services();
        services.shared.holds.add("reader".into());
        check_twice(services.clone(), |shared| shared.holds.remove("reader"));
        assert_eq!(services.shared.holds.longest(), None);
    }
}
