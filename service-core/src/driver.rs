//! [`Drivers`]: who carries a waiting service on when its time has come.
//!
//! A service that waits has no task. Its life, the future of its supervisor, is parked in its control, and a list says
//! when it is due. The clock's task watches that list; drivers poll the lives that are due, up to the first await of user
//! code that does not return at once: then the life gets a task of its own, until it waits again.
//!
//! The tricky part is user code that computes for long before its first await, or blocks its thread: it keeps the driver
//! that polls it. So there is a driver for each of the runtime's threads, the clock runs no user code where there are
//! several, and where all drivers are kept it gives what is due tasks of its own.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, Sleep};

use crate::caught::{self, Caught};
use crate::entry::Entry;
use crate::registry::{Inner, ServiceRegistry};
use crate::schedule::later;

/// What a service does from its start to its end.
pub(crate) type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How many lives are polled before the runtime's other tasks have their turn.
const BATCH: usize = 32;
/// How long lives may wait for drivers that are all kept.
const PATIENCE: Duration = Duration::from_millis(5);
/// From this many on, the list is looked through for what does not hold any more.
const FEW: usize = 64;

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
    many: usize,
    /// To be polled now.
    woken: VecDeque<Called>,
    /// How many were taken from `woken`.
    taken: u64,
    /// Drivers that have nothing to do.
    idle: Vec<Waker>,
    /// The clock's task, while it rests, and until when.
    clock: Option<(Waker, Option<Instant>)>,
    running: bool,
}

/// A moment at which a service is due. The earliest is the greatest.
struct Due {
    at: Instant,
    entry: Weak<Entry>,
}

/// A service whose life is to be polled.
struct Called {
    entry: Arc<Entry>,
    /// The moment for which it is, where nobody asked.
    due: Option<Instant>,
}

impl Drivers {
    /// Carries on a service that has just been started.
    pub(crate) fn begin(&self, life: Life, entry: Arc<Entry>, registry: &ServiceRegistry, runtime: &Handle) {
        let _known = self.registry.set(Arc::downgrade(&registry.inner));
        self.ensure(runtime);
        runtime.spawn(InTask { life: Some(life), entry });
    }

    /// Has there be drivers: on this runtime, where there are none.
    fn ensure(&self, runtime: &Handle) {
        let Some(registry) = self.registry.get() else { return };
        if std::mem::replace(&mut self.lock().running, true) {
            return;
        }
        let single = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let drivers = if single { 0 } else { runtime.metrics().num_workers() };
        for _ in 0..drivers {
            runtime.spawn(Driver(registry.clone()));
        }
        let _inside = runtime.enter();
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        runtime.spawn(Clock { registry: registry.clone(), timer, single, behind: None });
    }

    /// Has a parked life polled at this moment.
    fn poll_at(&self, at: Instant, entry: &Arc<Entry>) {
        let mut queue = self.lock();
        queue.due.push(Due { at, entry: Arc::downgrade(entry) });
        if queue.due.len() > queue.many.max(FEW) {
            let due = std::mem::take(&mut queue.due);
            // Controls are locked before queues.
            drop(queue);
            let due = without_stale(due.into_vec());
            queue = self.lock();
            queue.due.extend(due);
            queue.many = 2 * queue.due.len();
        }
        let first = queue.due.peek().map_or(at, |first| first.at);
        let clock = queue.clock.take_if(|(_, until)| until.is_none_or(|until| first < until));
        drop(queue);
        if let Some((clock, _)) = clock {
            clock.wake();
        }
    }

    /// Has a parked life polled now.
    fn poll_now(&self, entry: Arc<Entry>) {
        let mut queue = self.lock();
        queue.woken.push_back(Called { entry, due: None });
        let waker = queue.idle.pop().or_else(|| queue.clock.take().map(|(clock, _)| clock));
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Polls woken lives, and those that are due at `now`. Gives back the queue where none is left, and nothing where
    /// others should have their turn.
    fn work(&self, now: Option<Instant>) -> Option<MutexGuard<'_, Queue>> {
        for _ in 0..BATCH {
            let mut queue = self.lock();
            let Some(called) = queue.woken.pop_front().or_else(|| queue.pop_due(now?)) else { return Some(queue) };
            queue.taken += 1;
            drop(queue);
            called.carry_on();
        }
        None
    }

    /// Whether a life that is due has not been polled yet.
    #[cfg(feature = "testing")]
    pub(crate) fn are_behind(&self) -> bool {
        let queue = self.lock();
        !queue.woken.is_empty() || queue.due.peek().is_some_and(|first| first.at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry is gone: its drivers have nothing more to do.
impl Drop for Drivers {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        queue.clock.take().into_iter().for_each(|(clock, _)| clock.wake());
        queue.idle.drain(..).for_each(Waker::wake);
    }
}

impl Queue {
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
struct Driver(Weak<Inner>);

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        let Some(registry) = self.0.upgrade() else { return Poll::Ready(()) };
        match registry.hub.drivers.work(None) {
            Some(mut queue) => queue.idle.push(task.waker().clone()),
            None => task.waker().wake_by_ref(),
        }
        Poll::Pending
    }
}

/// The task that watches what is due.
struct Clock {
    registry: Weak<Inner>,
    timer: Pin<Box<Sleep>>,
    /// The runtime has one thread: whom user code holds up, it would hold up anyway.
    single: bool,
    /// Since when the drivers have been behind and not taken anything, and how much they had taken by then.
    behind: Option<(Instant, u64)>,
}

impl Future for Clock {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        let Some(registry) = self.registry.upgrade() else { return Poll::Ready(()) };
        let drivers = &registry.hub.drivers;
        loop {
            let now = Instant::now();
            let mut look = None;
            let mut queue = if self.single {
                let Some(queue) = drivers.work(Some(now)) else {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                };
                queue
            } else {
                let mut queue = drivers.lock();
                while let Some(due) = queue.pop_due(now) {
                    queue.woken.push_back(due);
                }
                if !queue.woken.is_empty() {
                    look = self.call_drivers(&mut queue, now);
                }
                queue
            };
            let first = queue.due.peek().map(|first| first.at);
            let until = first.into_iter().chain(look).min();
            queue.clock = Some((task.waker().clone(), until));
            drop(queue);
            let Some(until) = until else { return Poll::Pending };
            self.timer.as_mut().reset(until);
            if self.timer.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Clock {
    /// Calls a driver for each life that is to be polled. Where there are too few it says when to look again, and what
    /// they leave for long gets tasks of its own.
    fn call_drivers(&mut self, queue: &mut Queue, now: Instant) -> Option<Instant> {
        let few = queue.idle.len().min(queue.woken.len());
        queue.idle.drain(..few).for_each(Waker::wake);
        if few == queue.woken.len() {
            self.behind = None;
            return None;
        }
        let since = match self.behind {
            Some((since, taken)) if taken == queue.taken => since,
            _ => now,
        };
        self.behind = Some((since, queue.taken));
        if now.duration_since(since) >= PATIENCE {
            for called in queue.woken.drain(..) {
                tokio::spawn(async move { called.carry_on() });
            }
            return None;
        }
        Some(later(since, PATIENCE))
    }
}

/// The runtime goes down: what is parked will not be carried on, and ends as what is in tasks does.
impl Drop for Clock {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let queue = std::mem::take(&mut *registry.hub.drivers.lock());
        drop(queue);
        for entry in (ServiceRegistry { inner: registry }).entries() {
            let life = entry.lock().parked.take();
            drop(life);
        }
    }
}

/// A life on a task of its own, until it waits for its next run.
struct InTask {
    life: Option<Life>,
    entry: Arc<Entry>,
}

impl Future for InTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        let Self { life, entry } = &mut *self;
        loop {
            let Some(alive) = life else { return Poll::Ready(()) };
            if alive.as_mut().poll(task).is_ready() {
                return Poll::Ready(());
            }
            match park(life, entry, &Waker::from(entry.clone())) {
                Parked::Waits => {
                    // Where the runtime that it was started on is gone, this one takes over.
                    entry.hub.drivers.ensure(&Handle::current());
                    return Poll::Ready(());
                }
                Parked::Goes => {}
                Parked::Needs => return Poll::Pending,
            }
        }
    }
}

impl Called {
    /// Polls its life, where that is parked and there is something to do. One that then waits for anything but its next run
    /// gets a task of its own.
    fn carry_on(self) {
        let Self { entry, due } = self;
        let mut life = entry.lock().unpark(due);
        let waker = Waker::from(entry.clone());
        while let Some(alive) = &mut life {
            match caught::quietly(|| alive.as_mut().poll(&mut Task::from_waker(&waker))) {
                Caught::Returned(Poll::Pending) => {}
                Caught::Returned(Poll::Ready(())) => return,
                // As it was dropped it has said so.
                Caught::Panicked(_) => return,
            }
            match park(&mut life, &entry, &waker) {
                Parked::Waits => return,
                Parked::Goes => {}
                Parked::Needs => {
                    tokio::spawn(InTask { life, entry });
                    return;
                }
            }
        }
    }
}

/// What became of a life that is pending.
enum Parked {
    /// It waits for its next run, and is parked.
    Waits,
    /// Something came up meanwhile.
    Goes,
    /// It waits for something else, and needs a task.
    Needs,
}

/// Parks a life that waits for its next run only; `waker` has it polled again.
fn park(life: &mut Option<Life>, entry: &Arc<Entry>, waker: &Waker) -> Parked {
    let mut control = entry.lock();
    if !control.waits {
        return Parked::Needs;
    }
    if control.is_called() {
        return Parked::Goes;
    }
    control.listen(waker);
    control.parked = life.take();
    let due = control.next_due.filter(|_| !control.is_due);
    drop(control);
    if let Some(due) = due {
        entry.hub.drivers.poll_at(due, entry);
    }
    Parked::Waits
}

/// As a waker it has the parked life polled.
impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        let hub = self.hub.clone();
        hub.drivers.poll_now(self);
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
        assert!(registry.inner.hub.drivers.lock().due.len() <= super::FEW + 1);
        service.stop().await.unwrap();
    }
}
