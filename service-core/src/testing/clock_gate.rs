//! [`ClockGate`]: whether the paused clock of a runtime may move.

use std::cell::RefCell;
use std::future::Future;
use std::sync::{Arc, Weak, mpsc};

use tokio::runtime::Handle;

use crate::runtime::services::Services;
use crate::sync::Mutex;

/// Decides whether a paused clock may move. All beds of a runtime share it, since a caller that waits for one of them
/// lets time move for all.
#[derive(Debug, Default)]
pub(super) struct ClockGate {
    /// The runtime of the clock.
    runtime: Option<Handle>,
    /// Keeps a blocking task waiting, and tokio's clock does not advance while there is one.
    blocking: Option<mpsc::Sender<()>>,
    /// The callers that let time move.
    movers: usize,
    /// The beds that hold the clock.
    beds: usize,
    /// The services of each registry whose time this is.
    services: Vec<Weak<Services>>,
}

thread_local! {
    /// A clock can only be paused on a runtime of one thread.
    static GATE: RefCell<Weak<Mutex<ClockGate>>> = RefCell::default();
}

impl ClockGate {
    pub(super) fn of_this_thread() -> Arc<Mutex<Self>> {
        GATE.with_borrow_mut(|known| {
            known.upgrade().unwrap_or_else(|| {
                let gate = Arc::default();
                *known = Arc::downgrade(&gate);
                gate
            })
        })
    }

    /// Adds the services of a registry.
    pub(super) fn add(&mut self, services: &Arc<Services>) {
        self.services.retain(|known| known.strong_count() > 0);
        self.services.push(Arc::downgrade(services));
    }

    /// Returns the services of each registry. One of them is enough to keep time from moving for all.
    pub(super) fn services(&self) -> Vec<Arc<Services>> {
        self.services.iter().filter_map(Weak::upgrade).collect()
    }

    /// A bed that holds the clock begins.
    pub(super) fn add_bed(&mut self) {
        self.runtime = Some(Handle::current());
        self.beds += 1;
        self.close();
    }

    /// A bed that held the clock has ended.
    pub(super) fn remove_bed(&mut self) {
        self.beds = self.beds.saturating_sub(1);
        if self.beds == 0 {
            self.blocking = None;
        }
    }

    /// Holds the clock, unless a caller lets it move.
    fn close(&mut self) {
        if let Some(runtime) = self.runtime.as_ref().filter(|_| self.beds > 0 && self.movers == 0) {
            let (release, released) = mpsc::channel::<()>();
            runtime.spawn_blocking(move || released.recv());
            self.blocking = Some(release);
        }
    }
}

/// A caller that lets time move.
pub(super) struct Moving(Arc<Mutex<ClockGate>>);

impl Moving {
    pub(super) fn new(gate: Arc<Mutex<ClockGate>>) -> Self {
        {
            let mut gate = gate.lock();
            gate.movers += 1;
            gate.blocking = None;
        }
        Self(gate)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        let mut gate = self.0.lock();
        gate.movers = gate.movers.saturating_sub(1);
        gate.close();
    }
}

/// Awaits `work` of a bed that does not hold the clock. If another bed of the runtime does, lets time move.
pub(super) async fn moving_beside<T>(gate: Arc<Mutex<ClockGate>>, work: impl Future<Output = T>) -> T {
    let _moving = Moving::new(gate);
    work.await
}
