//! An outage of a resource that the service needs: its failures do not exhaust the service, and its end ends the wait
//! for a retry.

use super::*;

/// The API, as its probe found it.
#[derive(Clone, Copy, Default)]
pub(super) struct Api {
    down: bool,
    /// The end of the last outage.
    returned: Option<Ms>,
}

impl Api {
    fn was_down_since(self, at: Ms) -> bool {
        self.down || self.returned.is_some_and(|returned| returned >= at)
    }

    fn recovered_since(self, at: Ms) -> bool {
        !self.down && self.was_down_since(at)
    }
}

impl One {
    /// The probe has found an outage, or its end.
    pub(in super::super) fn see_api(&mut self, at: Ms, down: bool) {
        self.api.down = down;
        if down {
            return;
        }
        self.api.returned = Some(at);
        self.retry_at_once(at);
    }

    /// A wait begins after an outage has ended, because of a failure during it.
    pub(super) fn api_is_back_already(&mut self, at: Ms) {
        if self.life.as_ref().is_some_and(|life| self.api.recovered_since(life.failed_began)) {
            self.retry_at_once(at);
        }
    }

    /// A blocking run that held the instance has returned.
    pub(super) fn api_was_back(&mut self, at: Ms) {
        if self.life.as_mut().is_some_and(|life| std::mem::take(&mut life.api_is_back)) {
            self.retry_at_once(at);
        }
    }

    fn retry_at_once(&mut self, at: Ms) {
        let waits =
            |life: &&mut Life| life.awaits_api && life.retrying && life.stop.is_none() && life.building.is_none();
        let Some(life) = self.life.as_mut().filter(waits) else { return };
        if life.is_away() {
            life.api_is_back = true;
            return;
        }
        life.plan = Some(Window::at(at, Kind::Retry));
        self.failures = 0;
    }

    /// Returns the number of the next failure in a row, and whether it is past the limit. One that an outage excuses is
    /// not, and leaves the count where it is.
    pub(super) fn next_failure(&mut self, began: Ms) -> (u32, bool) {
        let most = self.part.max_failures.filter(|most| self.failures >= *most);
        if let Some(most) = most.filter(|_| self.part.needs_api && self.api.was_down_since(began)) {
            return (most.max(1), false);
        }
        (self.failures + 1, self.is_past_the_limit(self.failures + 1))
    }

    /// Whether the API that it needs is down.
    pub(in super::super) fn misses_api(&self) -> bool {
        self.part.needs_api && self.api.down
    }

    /// Whether an outage has ended at this moment.
    pub(in super::super) fn api_came_back_at(&self, now: Ms) -> bool {
        self.part.needs_api
            && self.api.returned.is_some_and(|returned| {
                returned == now
                    || self
                        .life
                        .as_ref()
                        .is_some_and(|life| life.retrying && life.failed_began <= returned && self.last_line == now)
            })
    }
}
