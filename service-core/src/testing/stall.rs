//! Detects that virtual time does not move: if a service runs again and again at one moment, or one run never waits, the test
//! never waits, and a paused clock only advances when every task waits.
//!
//! The tricky part is that only real time can reveal this. A thread wakes the caller from time to time. The decision counts
//! the runs and the polls at one moment of virtual time, so it does not depend on the machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::registration::RegisteredService;
use crate::runtime::services::Services;

/// More runs than this at one moment count as endless.
const MOST_RUNS: u64 = 100_000;
/// More polls of a service's code than this at one moment count as endless. A run may process a million rows at one moment.
const MOST_POLLS: u64 = 5_000_000;
/// The real time between two checks.
const LOOK: Duration = Duration::from_millis(200);

/// Wakes the caller that waits for virtual time.
#[derive(Debug)]
pub(super) struct Alarm {
    waker: Arc<Mutex<Option<Waker>>>,
    /// Ends the thread when it is dropped.
    _stop: Sender<()>,
}

impl Alarm {
    pub(super) fn start() -> Self {
        let (stop, stopped) = channel::<()>();
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let wakes = waker.clone();
        std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                if let Some(waker) = wakes.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    waker.wake();
                }
            }
        });
        Self { waker, _stop: stop }
    }

    /// Awaits `work`, which waits for virtual time.
    ///
    /// # Panics
    /// A service keeps virtual time from moving.
    pub(super) async fn watch<T>(&self, services: &[Arc<Services>], work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut moment = Moment::new(services);
        std::future::poll_fn(|task| {
            if let Poll::Ready(done) = work.as_mut().poll(task) {
                return Poll::Ready(done);
            }
            moment.check(services);
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// What each service had done when this moment of virtual time was first seen.
struct Moment {
    at: Instant,
    /// By the number of the replica and the id.
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
    fn new(services: &[Arc<Services>]) -> Self {
        let done = all(services).map(|(replica, service)| ((replica, service.id().clone()), Done::by(&service)));
        Self { at: Instant::now(), done: done.collect() }
    }

    fn check(&mut self, services: &[Arc<Services>]) {
        if self.at != Instant::now() {
            *self = Self::new(services);
            return;
        }
        for (replica, service) in all(services) {
            let (id, now) = (service.id(), Done::by(&service));
            let before = *self.done.entry((replica, id.clone())).or_insert(now);
            let runs = now.runs.saturating_sub(before.runs);
            assert!(
                runs <= MOST_RUNS,
                "service `{id}` keeps virtual time from moving: it has run {runs} times at one moment; it returns `again()` \
                 without an end, or retries without a delay"
            );
            let polls = now.polls.saturating_sub(before.polls);
            assert!(
                polls <= MOST_POLLS,
                "service `{id}` keeps virtual time from moving: its code was polled {polls} times at one moment; it never waits \
                 for a time, such as in a loop around a channel that always has a message"
            );
        }
    }
}

/// The services of all replicas, each with the number of its replica.
fn all(services: &[Arc<Services>]) -> impl Iterator<Item = (usize, Arc<RegisteredService>)> {
    services.iter().enumerate().flat_map(|(replica, services)| services.all().into_iter().map(move |it| (replica, it)))
}

impl Done {
    fn by(service: &RegisteredService) -> Self {
        let polls = service.inner.shared.polls.as_ref().map_or(0, |polls| polls.of(service.id()));
        let stats = &service.inner.lock().status.stats;
        Self { runs: stats.runs + stats.errors, polls }
    }
}
