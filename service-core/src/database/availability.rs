//! [`Availability`]: whether the registry's database answers and accepts writes, as far as the registry knows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::schema::FrameworkTables;
use crate::humanize;
use crate::runtime::resource::{Down, Outage, Outages};
use crate::sync::Mutex;

/// The state of the registry's database.
#[derive(Default)]
pub(crate) struct Availability {
    /// The database as messages show it, without a password.
    name: String,
    /// The registry can tell an exhausted pool from a database that is down.
    is_certain: bool,
    tables: Arc<FrameworkTables>,
    outages: Outages,
    state: Mutex<State>,
    probe_requests: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the last error was seen that the services did not cause, although the database was up.
    disturbed: Option<Instant>,
    /// A write failed with an error of a database that is read-only or full.
    writes_are_suspect: bool,
    /// In the present outage it answers, but accepts no writes.
    refuses_writes: bool,
}

impl Availability {
    pub(crate) fn new(name: String, is_certain: bool, tables: FrameworkTables) -> Self {
        Self { name, is_certain, tables: Arc::new(tables), ..Self::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tables(&self) -> &Arc<FrameworkTables> {
        &self.tables
    }

    pub(crate) fn is_down(&self) -> bool {
        self.outages.down().is_some()
    }

    /// Records that the database does not answer, or accepts no writes. True if it was up before.
    pub(crate) fn mark_down(&self, why: String, refuses_writes: bool) -> bool {
        self.state.lock().refuses_writes = refuses_writes;
        self.outages.mark_down(why)
    }

    /// Records that the database answers and accepts writes. Returns the length of the outage that ends with it.
    pub(crate) fn mark_up(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        (state.writes_are_suspect, state.refuses_writes) = (false, false);
        self.outages.mark_up()
    }

    /// Records that a write failed with an error of a database that is read-only or full.
    pub(crate) fn suspect_writes(&self) {
        self.state.lock().writes_are_suspect = true;
    }

    /// Whether only a successful write shows that the database is up.
    pub(crate) fn needs_a_write(&self) -> bool {
        let state = self.state.lock();
        state.writes_are_suspect || state.refuses_writes
    }

    /// Records an error that the services did not cause, although the database is up.
    pub(crate) fn disturbed(&self) {
        self.state.lock().disturbed = Some(Instant::now());
    }

    /// Whether an outage has ended since `at`, and the database is up.
    pub(crate) fn recovered_since(&self, at: Instant) -> bool {
        self.outages.recovered_since(at)
    }

    /// Whether the database is down, or was down or disturbed at `at` or later.
    pub(crate) fn was_down_since(&self, at: Instant) -> bool {
        let is_disturbed = self.state.lock().disturbed.is_some_and(|disturbed| disturbed >= at);
        is_disturbed || self.outages.was_down_since(at)
    }

    /// The current outage as text.
    pub(crate) fn outage(&self) -> Option<Outage> {
        let Down { since, why } = self.outages.down()?;
        let how = match self.state.lock().refuses_writes {
            true => "has accepted no writes",
            false if self.is_certain => "has been down",
            // A pool of the application may be exhausted instead.
            false => "has not answered",
        };
        let what = format!("the {} {how} for {}", self.name, humanize::long(since.elapsed()));
        Some(Outage { what, why })
    }

    /// Requests a poll at once, because a service could not use the database.
    pub(crate) fn probe_soon(&self) {
        if !self.is_down() {
            self.probe_requests.notify_one();
        }
    }

    pub(crate) async fn probe_requested(&self) {
        self.probe_requests.notified().await;
    }
}

impl fmt::Debug for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Availability")
            .field("name", &self.name)
            .field("state", &*self.state.lock())
            .finish_non_exhaustive()
    }
}
