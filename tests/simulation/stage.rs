//! The stage: where blocking runs have their turns, one at a time, so that a month with threads replays exactly.
//!
//! A blocking run is on a thread of its own, and says and asks nothing before it is its turn. Turns are given by the
//! simulation's own thread at its most quiet moment: just before it would park, when no task is left to be polled. It
//! stands still until the run has let go: by holding on until a moment of virtual time, or when its thread is done with it
//! (threads are kept for no time at all), which is after the runtime has been told of the run's end.
//!
//! While blocking runs go on, tokio's paused clock does not leap. A task moves it then, a millisecond at a time.

use std::cell::Cell;
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
    /// Services whose blocking runs have begun, in that order, and are not on the stage yet.
    expected: VecDeque<usize>,
    /// Those of them whose threads are there.
    arrived: BTreeSet<usize>,
    /// Runs that hold on, and until when.
    held: Vec<(Ms, u32)>,
    holds: u32,
    turn: Option<Turn>,
    /// A thread is gone whose turn it was.
    gone: bool,
    /// Nobody waits for a turn any more.
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First(usize),
    Again(u32),
    /// Whoever has it has taken it.
    Taken,
}

thread_local! {
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics on the stage")
    }

    // ── on the threads of blocking runs ──────────────────────────────────────────────────────────────────────────

    /// Waits for this service's turn.
    pub(crate) fn enter(&self, service: usize) {
        // A thread may take over the next run before a thread of its own does.
        self.leave();
        let mut inner = self.lock();
        inner.arrived.insert(service);
        self.changed.notify_all();
        self.take(inner, Turn::First(service));
    }

    /// Lets the others go on, until this moment of virtual time.
    pub(crate) fn hold(&self, until: Ms) {
        let mut inner = self.lock();
        inner.holds += 1;
        let number = inner.holds;
        inner.held.push((until, number));
        HAS_TURN.set(false);
        inner.turn = None;
        self.changed.notify_all();
        self.take(inner, Turn::Again(number));
    }

    fn take(&self, inner: MutexGuard<'_, Inner>, turn: Turn) {
        let waits = |inner: &mut Inner| inner.turn != Some(turn) && !inner.over;
        let mut inner = self.changed.wait_while(inner, waits).expect("nothing panics on the stage");
        inner.turn = Some(Turn::Taken);
        HAS_TURN.set(true);
    }

    /// This thread has done with its run: it is about to end, or to begin another.
    pub(crate) fn leave(&self) {
        if HAS_TURN.replace(false) {
            let mut inner = self.lock();
            (inner.turn, inner.gone) = (None, true);
            self.changed.notify_all();
        }
    }

    // ── on the simulation's own thread ───────────────────────────────────────────────────────────────────────────

    /// A blocking run has begun.
    pub(crate) fn expect(&self, service: usize) {
        self.lock().expected.push_back(service);
    }

    /// Gives turns until something comes of one. Nothing else is left to be done at this moment.
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
        // Of real time; as nothing but threads of the simulation's own are waited for, it is never used up.
        const PATIENCE: Duration = Duration::from_secs(120);
        let waited = self.changed.wait_timeout_while(inner, PATIENCE, |inner| waits(inner) && !inner.over);
        let (inner, timeout) = waited.expect("nothing panics on the stage");
        assert!(!timeout.timed_out(), "a blocking run was begun, and its thread does not come");
        inner
    }

    /// Moves the clock while runs hold on.
    pub(crate) async fn move_clock(self: Arc<Self>) {
        loop {
            self.step.notified().await;
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    /// Sends everyone away.
    fn dismiss(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }
}

/// Where the runtime's hooks find the world, for as long as there is one.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    stage: Arc<Stage>,
    world: Arc<Mutex<Option<Arc<World>>>>,
}

impl Hooks {
    /// A runtime on which blocking runs go by turns.
    pub(crate) fn runtime(&self) -> tokio::runtime::Runtime {
        let (park, stop) = (self.clone(), self.stage.clone());
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // The order of tasks depends on nothing but what woke them.
            .global_queue_interval(1)
            .event_interval(u32::MAX)
            .thread_keep_alive(Duration::ZERO)
            .on_thread_park(move || park.park())
            .on_thread_stop(move || stop.leave())
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

/// Closes the stage when it is dropped, so that no thread waits for a turn that never comes.
pub(crate) struct Opened(Hooks);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.world().take();
        self.0.stage.dismiss();
    }
}
