//! [`Availability`]: whether the registry's database answers, as far as the registry knows.
//!
//! The tricky part is the difference between a database that is down and a pool that one service has exhausted. A registry that
//! opened the database itself has a small pool of its own for its queries, which no service can exhaust.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::DatabaseConnection;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::schema::FrameworkTables;
use crate::humanize;
use crate::runtime::extension::Outage;

/// The state of the registry's database.
#[derive(Default)]
pub(crate) struct Availability {
    /// The database as messages show it, without a password.
    name: String,
    /// The pool for the registry's own queries; `None` if it shares the services' pool.
    registry_pool: Option<DatabaseConnection>,
    tables: Arc<FrameworkTables>,
    state: Mutex<State>,
    probe_requests: Notify,
}

#[derive(Debug, Default)]
struct State {
    down: Option<Down>,
    /// The end of the last outage.
    returned: Option<Instant>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    why: String,
}

impl Availability {
    pub(crate) fn new(name: String, registry_pool: Option<DatabaseConnection>, tables: FrameworkTables) -> Self {
        Self { name, registry_pool, tables: Arc::new(tables), ..Self::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The pool for the registry's own queries, where the services use `shared`.
    pub(crate) fn registry_pool<'a>(&'a self, shared: &'a DatabaseConnection) -> &'a DatabaseConnection {
        self.registry_pool.as_ref().unwrap_or(shared)
    }

    pub(crate) fn has_registry_pool(&self) -> bool {
        self.registry_pool.is_some()
    }

    pub(crate) fn tables(&self) -> &Arc<FrameworkTables> {
        &self.tables
    }

    pub(crate) fn is_down(&self) -> bool {
        self.lock().down.is_some()
    }

    /// Records that the database does not answer. True if it was up before.
    pub(crate) fn mark_down(&self, why: String) -> bool {
        let down = &mut self.lock().down;
        let news = down.is_none();
        let since = down.as_ref().map_or_else(Instant::now, |down| down.since);
        *down = Some(Down { since, why });
        news
    }

    /// Records that the database answers. Returns the length of the outage that ends with it.
    pub(crate) fn mark_up(&self) -> Option<Duration> {
        let mut state = self.lock();
        let down = state.down.take()?;
        state.returned = Some(Instant::now());
        Some(down.since.elapsed())
    }

    /// Whether an outage has ended since `at`, and the database is up.
    pub(crate) fn recovered_since(&self, at: Instant) -> bool {
        let state = self.lock();
        state.down.is_none() && state.returned.is_some_and(|returned| returned >= at)
    }

    /// Whether the database is down, or was down at `at` or later.
    pub(crate) fn was_down_since(&self, at: Instant) -> bool {
        let state = self.lock();
        state.down.is_some() || state.returned.is_some_and(|returned| returned >= at)
    }

    /// The current outage as text.
    pub(crate) fn outage(&self) -> Option<Outage> {
        let state = self.lock();
        let down = state.down.as_ref()?;
        // A pool of the application may be exhausted instead.
        let how = if self.has_registry_pool() { "has been away" } else { "has not answered" };
        let what = format!("the {} {how} for {}", self.name, humanize::long(down.since.elapsed()));
        Some(Outage { what, why: down.why.clone() })
    }

    /// Requests a poll at once, because a service could not reach the database.
    pub(crate) fn probe_soon(&self) {
        if !self.is_down() {
            self.probe_requests.notify_one();
        }
    }

    pub(crate) async fn probe_requested(&self) {
        self.probe_requests.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Availability").field("name", &self.name).field("state", &*self.lock()).finish_non_exhaustive()
    }
}
