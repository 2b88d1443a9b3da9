//! Threads that run blocking code, and how they sleep.
//!
//! In a test on virtual time, the clock stands still while blocking code works, and moves while the code sleeps in
//! `cx.blocking_sleep`. tokio's paused clock does not advance while there is a blocking task, so there is one (`Hold`)
//! exactly while the code works; the code itself runs on a thread that tokio does not know.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::runtime::shared::{Holds, Shared};

/// How long the clock stands still, in real time, for a `run` that does not sleep: it may wait for a socket without an
/// end.
const LONG_RUN_HOLD: Duration = Duration::from_secs(1);
/// The same for other code. It may wait in its own way for what only happens when the clock moves. Longer than what
/// ends a test by a panic; the end of the test then waits for the rest of this time.
const HOLD: Duration = Duration::from_secs(35);

thread_local! {
    static TIME: RefCell<Time> = const { RefCell::new(Time::Real) };
}

/// The time of this thread.
enum Time {
    Real,
    /// Virtual, and it stands still while this thread works.
    Virtual(Hold),
    /// No time passes in a sleep.
    Frozen,
}

/// Runs blocking code: on the blocking pool, or on a thread of its own, which has the name of the service.
///
/// # Errors
/// The operating system does not start a thread.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    id: &Arc<str>,
    own_thread: bool,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (runtime, shared) = (Handle::current(), shared.clone());
    let is_virtual = shared.clock.is_virtual();
    let counting = shared.enter_blocking();
    let counted = move || {
        work();
        drop(counting);
    };
    if !own_thread && !is_virtual {
        runtime.spawn_blocking(counted);
        return Ok(());
    }
    let limit = if own_thread { LONG_RUN_HOLD } else { HOLD };
    let hold = is_virtual.then(|| Hold::new(&runtime, &shared.holds, id.clone(), limit));
    let on_thread = move || {
        let _entered = runtime.enter();
        set(hold.map_or(Time::Real, Time::Virtual));
        counted();
        set(Time::Real);
    };
    std::thread::Builder::new().name(id.to_string()).spawn(on_thread).map(drop)
}

/// From now on no time passes while this thread sleeps in `cx.blocking_sleep`.
pub(crate) fn freeze_time() {
    set(Time::Frozen);
}

/// Sleeps in blocking code, until this future ends.
pub(crate) fn sleep(shared: &Shared, sleeping: impl Future<Output = ()> + Send + 'static) {
    let hold = match TIME.replace(Time::Real) {
        Time::Frozen => return set(Time::Frozen),
        Time::Virtual(hold) => Some(hold),
        Time::Real => None,
    };
    // `current` panics, and says why.
    let runtime = shared.any_runtime().unwrap_or_else(Handle::current);
    let Some(hold) = hold else { return runtime.block_on(sleeping) };
    let (wake, woken) = mpsc::channel();
    let (id, limit, holds) = (hold.id.clone(), hold.limit, shared.holds.clone());
    runtime.spawn(async move {
        sleeping.await;
        // The clock stands still from this moment on, before the thread is awake.
        let _ = wake.send(Hold::new(&Handle::current(), &holds, id, limit));
    });
    // Only now, when the end of the sleep is known to the runtime, the clock may move.
    drop(hold);
    // Without an answer, the runtime shuts down.
    if let Ok(hold) = woken.recv() {
        set(Time::Virtual(hold));
    }
}

fn set(time: Time) {
    drop(TIME.replace(time));
}

/// A paused clock does not advance until this is dropped, or until its limit is over.
struct Hold {
    /// The service whose code it is.
    id: Arc<str>,
    limit: Duration,
    _release: mpsc::Sender<()>,
}

impl Hold {
    fn new(runtime: &Handle, holds: &Arc<Holds>, id: Arc<str>, limit: Duration) -> Self {
        let (release, released) = mpsc::channel::<()>();
        holds.add(id.clone());
        let (holds, held_by) = (holds.clone(), id.clone());
        runtime.spawn_blocking(move || {
            // Ends with an error when the other end is dropped.
            let _ = released.recv_timeout(limit);
            holds.remove(&held_by);
        });
        Self { id, limit, _release: release }
    }
}
