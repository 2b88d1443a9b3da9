//! [`Patience`]: how long to wait, in real time, for work that cannot be observed.

use std::time::Duration;

use crate::runtime::extension::RealWorkState;

/// The silence before a step if nothing is known about the pool, or after a step that changed nothing, in moments of
/// real time.
pub(super) const SHORT_SILENCE: u32 = 20;
/// The silence before the database is asked what it does.
pub(super) const ASK_SILENCE: u32 = 1_000;
/// The silence before the first step while a transaction is open whose user sleeps: a statement may wait for its lock.
pub(super) const LOCK_SILENCE: u32 = 5_000;
/// The same without one. A statement is slow, or it is a transaction of the pool's own whose user sleeps.
pub(super) const LONG_SILENCE: u32 = 20_000;
/// No work goes on if there is none for so many turns of the runtime.
pub(super) const QUIET: u32 = 64;
/// So many moments take no more than a turn of the runtime, since most statements are short.
pub(super) const QUICK: u32 = 200;

/// How long nothing has happened, in real time. A busy machine lengthens it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    seen: Option<(RealWorkState, u64)>,
    /// How many moments of real time have passed.
    pub(super) silence: u32,
    /// The clock has moved since, and nothing happened.
    has_moved: bool,
}

impl Patience {
    pub(super) fn is_over(&mut self, state: RealWorkState, begun: u64) -> bool {
        if self.seen != Some((state, begun)) {
            *self = Self { seen: Some((state, begun)), ..Self::default() };
        }
        self.silence += 1;
        let most = match state {
            _ if self.has_moved => SHORT_SILENCE,
            RealWorkState { active: None, .. } => SHORT_SILENCE,
            RealWorkState { waiting: 0, .. } => LONG_SILENCE,
            _ => LOCK_SILENCE,
        };
        let is_over = self.silence > most + QUICK;
        if is_over {
            self.end();
        }
        is_over
    }

    /// Whether it has lasted so long that the database should be asked.
    pub(super) fn may_ask(&self) -> bool {
        !self.has_moved && self.silence == QUICK + ASK_SILENCE
    }

    /// The silence begins anew.
    pub(super) fn renew(&mut self) {
        self.silence = 0;
    }

    /// The silence is over: the clock may move.
    pub(super) fn end(&mut self) {
        (self.silence, self.has_moved) = (QUICK, true);
    }
}

/// Waits a moment in real time: a millisecond, or less at first. The clock does not advance.
pub(super) async fn real_time_passes(silence: u32) {
    if silence < QUICK {
        return tokio::task::yield_now().await;
    }
    let moment = if silence < QUICK + SHORT_SILENCE { Duration::from_micros(50) } else { Duration::from_millis(1) };
    // Not in place, so that the runtime notices what happens in the meantime. If the blocking pool has shut down, the
    // test is ending.
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(moment)).await;
}
