//! [`Drivers`]: who carries a waiting service on when its time has come.
//!
//! A service that waits has no task. Its life is parked in its control, and a list says when it is due. The timekeeper
//! watches that list; drivers poll the lives that are due, up to the first await of user code that does not return at
//! once: then the life gets a task of its own, until it waits again.
//!
//! The tricky part is user code that computes for long before its first await, or blocks its thread: the driver that
//! polls it is busy. So there is a driver for each of the runtime's threads, the timekeeper runs no user code where there
//! are several, and where all drivers stay busy it gives what is due tasks of its own.
//!
//! When the runtime goes down, what is parked ends as what is in tasks does: it is dropped, and the service has failed.
//! Controls are locked before the queue, never while it is locked; and nothing of the user's is dropped under its lock.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, Sleep};

use crate::panic;
use crate::registry::{Inner, ServiceRegistry};
use crate::runtime::entry::Entry;
use crate::schedule::later;

mod life;

use life::{Called, InTask};
pub(crate) use life::{Life, has_panicked};

/// How many lives are polled before the runtime's other tasks have their turn.
const BATCH: usize = 16;
/// How long lives may wait for drivers that are all busy.
const PATIENCE: Duration = Duration::from_millis(5);
/// A list no longer than this is not looked through for what does not hold any more.
const COMPACT_FROM: usize = 64;

/// The lives of one registry that wait, and those who carry them on.
///
/// They live on the runtime that the registry was first started on, as long as there is that.
#[derive(Default)]
pub(crate) struct Drivers {
    queue: Mutex<Queue>,
    registry: OnceLock<Weak<Inner>>,
}

#[derive(Default)]
struct Queue {
    due: BinaryHeap<Due>,
    /// At this length `due` is looked through.
    compact_at: usize,
    /// To be polled now.
    called: VecDeque<Called>,
    /// How many lives were taken to be polled.
    taken: u64,
    /// Drivers that have nothing to do.
    idle: Vec<Waker>,
    /// The timekeeper, and until when it rests, from its last look at the list on.
    timekeeper: Option<(Waker, Option<Instant>)>,
    running: bool,
    /// How many runtimes went down: tells the drivers of one from those of the next.
    generation: u64,
    /// The registry is gone.
    retired: bool,
}

/// A moment at which a service is due. The earliest is the greatest.
struct Due {
    at: Instant,
    entry: Weak<Entry>,
}

/// What came of placing a parked life on the list.
struct Placed {
    running: bool,
    timekeeper_called: bool,
}

/// How far a driver came.
enum Worked<'q> {
    /// Nothing is called, for as long as the queue is locked.
    All(MutexGuard<'q, Queue>),
    /// Others should have their turn.
    Some,
}

impl Drivers {
    /// Carries on a service that has just been started.
    pub(crate) fn begin(&self, life: Life, entry: Arc<Entry>, registry: &ServiceRegistry, runtime: &Handle) {
        let _known = self.registry.set(Arc::downgrade(&registry.inner));
        self.ensure(runtime);
        runtime.spawn(InTask { life: Some(life), entry });
    }

    /// Starts drivers on this runtime, where there are none.
    fn ensure(&self, runtime: &Handle) {
        let Some(registry) = self.registry.get() else { return };
        let generation = {
            let mut queue = self.lock();
            if std::mem::replace(&mut queue.running, true) {
                return;
            }
            queue.generation
        };
        let single = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let drivers = if single { 0 } else { runtime.metrics().num_workers() };
        for _ in 0..drivers {
            runtime.spawn(Driver { registry: registry.clone(), generation });
        }
        let timer = {
            let _inside = runtime.enter();
            Box::pin(tokio::time::sleep(Duration::ZERO))
        };
        runtime.spawn(Timekeeper { registry: registry.clone(), timer, single, behind: None });
    }

    /// Has a parked life polled at this moment, if it is due at one.
    fn place(&self, due: Option<Instant>, entry: &Arc<Entry>) -> Placed {
        let mut queue = self.lock();
        let Some(at) = due else { return Placed { running: queue.running, timekeeper_called: false } };
        queue.due.push(Due { at, entry: Arc::downgrade(entry) });
        if queue.due.len() > queue.compact_at.max(COMPACT_FROM) {
            let due = std::mem::take(&mut queue.due);
            drop(queue);
            let due = without_stale(due.into_vec());
            queue = self.lock();
            queue.due.extend(due);
            queue.compact_at = 2 * queue.due.len();
        }
        let first = queue.due.peek().map_or(at, |first| first.at);
        let timekeeper = queue.timekeeper.take_if(|(_, until)| until.is_none_or(|until| first < until));
        let placed = Placed { running: queue.running, timekeeper_called: timekeeper.is_some() };
        drop(queue);
        timekeeper.into_iter().for_each(|(waker, _)| waker.wake());
        placed
    }

    /// Has a parked life polled now.
    fn call(&self, entry: Arc<Entry>) {
        let mut queue = self.lock();
        if queue.retired {
            return;
        }
        queue.called.push_back(Called { entry, due: None });
        let waker = queue.idle.pop().or_else(|| queue.timekeeper.take().map(|(waker, _)| waker));
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Polls lives that are called, and with `now` those that are due by then.
    fn work(&self, now: Option<Instant>) -> Worked<'_> {
        for _ in 0..BATCH {
            let mut queue = self.lock();
            let Some(called) = queue.take(now) else { return Worked::All(queue) };
            drop(queue);
            // A supervisor that panics says so as it is dropped. Whatever is let go of here may be the user's, too.
            let worked = panic::catch(|| called.carry_on());
            if matches!(worked, panic::Caught::Returned(true)) {
                // The timekeeper is next on this thread, where no other can take it over.
                return Worked::Some;
            }
        }
        Worked::Some
    }

    /// The registry is gone, and its drivers have nothing more to do.
    pub(crate) fn retire(&self) {
        let mut queue = self.lock();
        let retired = Queue { retired: true, generation: queue.generation, ..Queue::default() };
        let left = std::mem::replace(&mut *queue, retired);
        drop(queue);
        left.timekeeper.into_iter().for_each(|(waker, _)| waker.wake());
        left.idle.into_iter().for_each(Waker::wake);
    }

    /// Whether a life that is due has not been polled yet.
    #[cfg(feature = "testing")]
    pub(crate) fn are_behind(&self) -> bool {
        let queue = self.lock();
        !queue.called.is_empty() || queue.due.peek().is_some_and(|first| first.at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take(&mut self, now: Option<Instant>) -> Option<Called> {
        // Turn about, so that what is called for ever does not hold up what is due, nor the other way round.
        let due_first = self.taken.is_multiple_of(2);
        let due = if due_first { now.and_then(|now| self.pop_due(now)) } else { None };
        let called = due.or_else(|| self.called.pop_front()).or_else(|| self.pop_due(now.filter(|_| !due_first)?));
        self.taken += u64::from(called.is_some());
        called
    }

    fn pop_due(&mut self, now: Instant) -> Option<Called> {
        while self.due.peek()?.at <= now {
            let Due { at, entry } = self.due.pop()?;
            if let Some(entry) = entry.upgrade() {
                return Some(Called { entry, due: Some(at) });
            }
        }
        None
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What was planned otherwise meanwhile is left out, and so is what stands there twice.
fn without_stale(due: Vec<Due>) -> Vec<Due> {
    let mut known = HashSet::new();
    due.into_iter()
        .filter(|due| {
            let holds = |entry: Arc<Entry>| entry.lock().next_due == Some(due.at);
            due.entry.upgrade().is_some_and(holds) && known.insert(due.entry.as_ptr())
        })
        .collect()
}

/// A driver's task.
struct Driver {
    registry: Weak<Inner>,
    generation: u64,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let Some(registry) = self.registry.upgrade() else { return Poll::Ready(()) };
        match registry.hub.drivers.work(None) {
            // Under the lock that saw that nothing is called: whoever calls next finds the waker.
            Worked::All(mut queue) if queue.generation == self.generation => queue.idle.push(task.waker().clone()),
            Worked::All(_) => return Poll::Ready(()),
            Worked::Some => task.waker().wake_by_ref(),
        }
        Poll::Pending
    }
}

/// The task that watches what is due.
struct Timekeeper {
    registry: Weak<Inner>,
    timer: Pin<Box<Sleep>>,
    /// The runtime has one thread, so that this is the driver, too: whom user code holds up, it would hold up anyway.
    single: bool,
    /// Since when all drivers have been busy, and how many lives they had taken by then.
    behind: Option<(Instant, u64)>,
}

impl Future for Timekeeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let Some(registry) = self.registry.upgrade() else { return Poll::Ready(()) };
        let drivers = &registry.hub.drivers;
        loop {
            let now = Instant::now();
            let mut look = None;
            let mut queue = if self.single {
                let Worked::All(queue) = drivers.work(Some(now)) else {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                };
                queue
            } else {
                let mut queue = drivers.lock();
                while let Some(due) = queue.pop_due(now) {
                    queue.called.push_back(due);
                }
                look = self.call_drivers(&mut queue, now);
                if look.is_some_and(|look| look <= now) {
                    let left = std::mem::take(&mut queue.called);
                    self.behind = None;
                    drop(queue);
                    for called in left {
                        tokio::spawn(async move { called.carry_on() });
                    }
                    continue;
                }
                queue
            };
            let first = queue.due.peek().map(|first| first.at);
            let until = first.into_iter().chain(look).min();
            queue.timekeeper = Some((task.waker().clone(), until));
            drop(queue);
            let Some(until) = until else { return Poll::Pending };
            self.timer.as_mut().reset(until);
            if self.timer.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Timekeeper {
    /// Calls a driver for each life that is called. Where there are too few, it says until when they may stay busy.
    fn call_drivers(&mut self, queue: &mut Queue, now: Instant) -> Option<Instant> {
        let few = queue.idle.len().min(queue.called.len());
        queue.idle.drain(..few).for_each(Waker::wake);
        if few == queue.called.len() {
            self.behind = None;
            return None;
        }
        let since = match self.behind {
            Some((since, taken)) if taken == queue.taken => since,
            _ => now,
        };
        self.behind = Some((since, queue.taken));
        Some(later(since, PATIENCE))
    }
}

/// The runtime goes down.
impl Drop for Timekeeper {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut queue = registry.hub.drivers.lock();
        let next = Queue { generation: queue.generation + 1, ..Queue::default() };
        let left = std::mem::replace(&mut *queue, next);
        drop(queue);
        let _ = panic::catch(|| drop(left));
        for entry in (ServiceRegistry { inner: registry }).entries() {
            let life = entry.lock().parked.take();
            let _ = panic::catch(|| drop(life));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::prelude::*;

    #[derive(Default)]
    struct Waiting;

    #[service(interval = 3600, discover = false, crate = crate)]
    impl Waiting {
        async fn update(&mut self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn runs_by_hand_leave_nothing_behind_on_the_list() {
        let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
        let service = registry.register_of::<Waiting>("waiting").await.unwrap();
        service.start().await.unwrap();
        for _ in 0..1_000 {
            service.run_now().await.unwrap();
        }
        assert!(registry.inner.hub.drivers.lock().due.len() <= super::COMPACT_FROM + 1);
        service.stop().await.unwrap();
    }
}
