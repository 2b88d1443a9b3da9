//! [`Life`]: what a service does from its start to its end, and where that is while it waits.
//!
//! ```text
//!   started ──► in a task ──► parked ──► called ──► polled by a driver ──► parked
//!                   ▲                                      │
//!                   └──────────────────────────────────────┘ pending for anything but its next run
//! ```
//!
//! The tricky part is a wake-up on the way. Whoever asks something of a service says so in its control, under the lock
//! under which a life is parked: so it finds either a life that looks again, or a waker that has it polled.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::runtime::entry::Entry;

/// The future of a service's supervisor.
pub(crate) type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Set while a life is polled on this thread, and left so by one that panics.
    static POLLS: Cell<bool> = const { Cell::new(false) };
}

fn poll(life: &mut Life, task: &mut TaskContext<'_>) -> Poll<()> {
    POLLS.set(true);
    let polled = life.as_mut().poll(task);
    POLLS.set(false);
    polled
}

/// Whether the panic of this thread is that of a life, and not one that merely takes lives along.
pub(crate) fn has_panicked() -> bool {
    std::thread::panicking() && POLLS.replace(false)
}

/// A life in a task of its own, until it waits for its next run.
pub(super) struct InTask {
    pub(super) life: Option<Life>,
    pub(super) entry: Arc<Entry>,
}

impl Future for InTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let Self { life, entry } = &mut *self;
        loop {
            let Some(alive) = life else { return Poll::Ready(()) };
            if poll(alive, task).is_ready() {
                return Poll::Ready(());
            }
            match park(life, entry, &Waker::from(entry.clone())) {
                Parked::Waits { .. } => return Poll::Ready(()),
                Parked::Goes => {}
                Parked::Needs => return Poll::Pending,
            }
        }
    }
}

/// A service whose life is to be polled.
pub(super) struct Called {
    pub(super) entry: Arc<Entry>,
    /// The moment for which it is, where nobody asked.
    pub(super) due: Option<Instant>,
}

impl Called {
    /// Polls its life, where that is parked and there is something to do. One that then waits for anything but its next run
    /// gets a task of its own. Says whether that called the timekeeper.
    pub(super) fn carry_on(self) -> bool {
        let Self { entry, due } = self;
        let mut life = entry.lock().unpark(due);
        let waker = Waker::from(entry.clone());
        while let Some(alive) = &mut life {
            if poll(alive, &mut TaskContext::from_waker(&waker)).is_ready() {
                return false;
            }
            match park(&mut life, &entry, &waker) {
                Parked::Waits { timekeeper_called } => return timekeeper_called,
                Parked::Goes => {}
                Parked::Needs => {
                    tokio::spawn(InTask { life, entry });
                    return false;
                }
            }
        }
        false
    }
}

/// What became of a life that is pending.
enum Parked {
    /// It waits for its next run, and is parked.
    Waits { timekeeper_called: bool },
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
    let drivers = &entry.hub.drivers;
    let placed = drivers.place(due, entry);
    if !placed.running {
        // The runtime that the registry was started on is gone: this one takes over, or, if it is this one that goes, ends it.
        drivers.ensure(&Handle::current());
    }
    Parked::Waits { timekeeper_called: placed.timekeeper_called }
}

/// As a waker it has the parked life polled.
impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        let hub = self.hub.clone();
        hub.drivers.call(self);
    }
}
