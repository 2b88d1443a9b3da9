//! The stage: blocking runs take turns here, one at a time, so that a month with threads replays exactly.
//!
//! A blocking run is on a thread of its own, and reports and requests nothing before its turn. The simulation's own
//! thread grants the turns just before it would park, when no task is left to be polled. It waits until the run has
//! ended its turn: either the run holds until a moment of virtual time, or its thread has ended, which is after the
//! runtime has received the result of the run.
//!
//! During blocking runs, tokio's paused clock does not advance by itself. A task advances it, a millisecond at a time.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::trace::Ms;
use crate::world::World;

#[derive(Default)]
pub(crate) struct Stage {
    inner: Mutex<Inner>,
    changed: Condvar,
    step: Notify,
}

#[derive(Default)]
struct Inner {
    /// Services whose blocking runs have begun, in order, and have had no turn yet.
    expected: VecDeque<usize>,
    /// Those of them whose threads wait for a turn.
    arrived: BTreeSet<usize>,
    /// Runs that hold, and until when.
    held: Vec<(Ms, u32)>,
    holds: u32,
    turn: Option<Turn>,
    /// The thread that had the turn has ended.
    gone: bool,
    /// The simulation is over: threads do not wait for turns any more.
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First(usize),
    Again(u32),
    /// A thread has the turn.
    Taken,
}

thread_local! {
    /// The stage on which this thread has the turn. A thread that ends leaves it.
    static HAS_TURN: RefCell<Option<HasTurn>> = const { RefCell::new(None) };
}

struct HasTurn(Arc<Stage>);

impl Drop for HasTurn {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        (inner.turn, inner.gone) = (None, true);
        self.0.changed.notify_all();
    }
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics on the stage")
    }

    // ── on the threads of blocking runs ──────────────────────────────────────────────────────────────────────────

    /// Waits for the turn of this service.
    pub(crate) fn enter(self: &Arc<Self>, service: usize) {
        let mut inner = self.lock();
        inner.arrived.insert(service);
        self.changed.notify_all();
        self.take(inner, Turn::First(service));
        HAS_TURN.set(Some(HasTurn(self.clone())));
    }

    /// Ends the turn until this moment of virtual time.
    pub(crate) fn hold(self: &Arc<Self>, until: Ms) {
        let turn = HAS_TURN.take();
        let mut inner = self.lock();
        inner.holds += 1;
        let number = inner.holds;
        inner.held.push((until, number));
        inner.turn = None;
        self.changed.notify_all();
        self.take(inner, Turn::Again(number));
        HAS_TURN.set(turn);
    }

    fn take(&self, inner: MutexGuard<'_, Inner>, turn: Turn) {
        let waits = |inner: &mut Inner| inner.turn != Some(turn) && !inner.over;
        let mut inner = self.changed.wait_while(inner, waits).expect("nothing panics on the stage");
        inner.turn = Some(Turn::Taken);
    }

    // ── on the simulation's own thread ───────────────────────────────────────────────────────────────────────────

    /// A blocking run has begun.
    pub(crate) fn expect(&self, service: usize) {
        self.lock().expected.push_back(service);
    }

    /// Grants turns until one has an effect on the runtime. Called when nothing else is left to do at this moment.
    pub(crate) fn conduct(&self, now: Ms) {
        let mut inner = self.lock();
        while !inner.over {
            let turn = if let Some(service) = inner.expected.pop_front() {
                inner = self.wait(inner, |inner| !inner.arrived.contains(&service));
                inner.arrived.remove(&service);
                Turn::First(service)
            } else if let Some(ready) = inner.held.iter().position(|(until, _)| *until <= now) {
                Turn::Again(inner.held.remove(ready).1)
            } else {
                if !inner.held.is_empty() {
                    self.step.notify_one();
                }
                return;
            };
            (inner.turn, inner.gone) = (Some(turn), false);
            self.changed.notify_all();
            inner = self.wait(inner, |inner| inner.turn.is_some());
            if inner.gone {
                return;
            }
        }
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, waits: impl Fn(&Inner) -> bool) -> MutexGuard<'a, Inner> {
        // Real time. Only threads of the simulation itself are waited for, so this is never reached.
        const STEP_TIMEOUT: Duration = Duration::from_secs(120);
        let waited = self.changed.wait_timeout_while(inner, STEP_TIMEOUT, |inner| waits(inner) && !inner.over);
        let (inner, timeout) = waited.expect("nothing panics on the stage");
        assert!(!timeout.timed_out(), "a blocking run has begun, but its thread does not arrive");
        inner
    }

    /// Advances the clock while runs hold.
    pub(crate) async fn move_clock(self: Arc<Self>) {
        loop {
            self.step.notified().await;
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    /// Releases all threads.
    fn dismiss(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }
}

/// The access of the runtime's hooks to the world, while there is one.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    stage: Arc<Stage>,
    world: Arc<Mutex<Option<Arc<World>>>>,
}

impl Hooks {
    /// Builds a runtime on which blocking runs take turns.
    pub(crate) fn runtime(&self) -> tokio::runtime::Runtime {
        let park = self.clone();
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // The order of tasks depends only on the order in which they were woken.
            .global_queue_interval(1)
            .event_interval(u32::MAX)
            .on_thread_park(move || park.park())
            .build()
            .expect("a runtime can be built")
    }

    pub(crate) fn stage(&self) -> Arc<Stage> {
        self.stage.clone()
    }

    pub(crate) fn open(&self, world: &Arc<World>) -> Opened {
        *self.world() = Some(world.clone());
        tokio::spawn(self.stage.clone().move_clock());
        Opened(self.clone())
    }

    fn park(&self) {
        let world = self.world().clone();
        if let Some(world) = world {
            world.conduct();
        }
    }

    fn world(&self) -> MutexGuard<'_, Option<Arc<World>>> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Closes the stage when it is dropped, so that no thread waits without end.
pub(crate) struct Opened(Hooks);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.world().take();
        self.0.stage.dismiss();
    }
}
