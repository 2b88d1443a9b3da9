//! [`Presence`]: whether the registry's database is there, as far as the registry knows.
//!
//! The tricky part is telling a database that is away from a pool that one service has used up. Where the registry opened the
//! database by itself, it keeps two connections of its own for its questions, so that nobody can take them from it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::DatabaseConnection;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::database::schema::{check_schema, migrate};
use crate::humanize;
use crate::service::error::Result;

/// What is known of the registry's database.
#[derive(Default)]
pub(crate) struct Presence {
    /// As messages show it, without a password.
    name: String,
    /// For the registry's own questions, where the services' pool is not to be shared.
    own: Option<DatabaseConnection>,
    tables: Arc<Tables>,
    known: Mutex<Known>,
    suspected: Notify,
}

#[derive(Debug, Default)]
struct Known {
    away: Option<Away>,
    /// The end of the last outage.
    returned: Option<Instant>,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    why: String,
}

impl Presence {
    pub(crate) fn new(name: String, own: Option<DatabaseConnection>, tables: Tables) -> Self {
        Self { name, own, tables: Arc::new(tables), ..Self::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The connections for the registry's own questions, where the services use `shared`.
    pub(crate) fn own<'a>(&'a self, shared: &'a DatabaseConnection) -> &'a DatabaseConnection {
        self.own.as_ref().unwrap_or(shared)
    }

    pub(crate) fn has_own(&self) -> bool {
        self.own.is_some()
    }

    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    pub(crate) fn is_away(&self) -> bool {
        self.lock().away.is_some()
    }

    /// It does not answer. Says whether that is news.
    pub(crate) fn gone(&self, why: String) -> bool {
        let away = &mut self.lock().away;
        let news = away.is_none();
        let since = away.as_ref().map_or_else(Instant::now, |away| away.since);
        *away = Some(Away { since, why });
        news
    }

    /// It answers. Says for how long it was away, where it was.
    pub(crate) fn back(&self) -> Option<Duration> {
        let mut known = self.lock();
        let away = known.away.take()?;
        known.returned = Some(Instant::now());
        Some(away.since.elapsed())
    }

    /// Whether it has come back since `at`, and is there.
    pub(crate) fn has_returned_since(&self, at: Instant) -> bool {
        let known = self.lock();
        known.away.is_none() && known.returned.is_some_and(|returned| returned >= at)
    }

    /// Whether it is away, or was at `at` or later: what began then may have suffered from it.
    pub(crate) fn was_away_since(&self, at: Instant) -> bool {
        let known = self.lock();
        known.away.is_some() || known.returned.is_some_and(|returned| returned >= at)
    }

    /// The outage in words, as long as it lasts.
    pub(crate) fn outage(&self) -> Option<Outage> {
        let known = self.lock();
        let away = known.away.as_ref()?;
        // A pool of the application's own may as well be used up.
        let how = if self.has_own() { "has been away" } else { "has not answered" };
        let what = format!("the {} {how} for {}", self.name, humanize::long(away.since.elapsed()));
        Some(Outage { what, why: away.why.clone() })
    }

    /// Somebody could not reach it: it is looked for at once.
    pub(crate) fn suspect(&self) {
        if !self.is_away() {
            self.suspected.notify_one();
        }
    }

    pub(crate) async fn suspected(&self) {
        self.suspected.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("name", &self.name).field("known", &*self.lock()).finish_non_exhaustive()
    }
}

/// An outage in words.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// Whether the framework's tables are there.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    skip_migration: bool,
    ready: AtomicBool,
}

impl Tables {
    /// They are to be made, or with `skip_migration` looked for, before they are used.
    pub(crate) fn of_registry(skip_migration: bool) -> Self {
        Self { skip_migration, ready: AtomicBool::new(false) }
    }

    /// Their user sees to them.
    pub(crate) fn made() -> Self {
        Self { skip_migration: true, ready: AtomicBool::new(true) }
    }

    pub(crate) fn are_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Makes them where they are missing. Once they are known to be there, nothing is asked of the database.
    ///
    /// # Errors
    /// The database is away, or they cannot, or shall not, be made.
    pub(crate) async fn ensure(&self, db: &DatabaseConnection) -> Result<()> {
        if self.are_ready() {
            return Ok(());
        }
        if self.skip_migration {
            check_schema(db).await?;
        } else {
            migrate(db).await?;
        }
        self.ready.store(true, Ordering::SeqCst);
        Ok(())
    }
}
