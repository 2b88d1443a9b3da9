//! The wall clock of the database code, which tests can replace, and the format of times in the framework's tables.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, SubsecRound, Utc};

/// A source of the current time. Cheap to clone.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl WallClock {
    /// A clock that calls `now`.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time in whole microseconds, as PostgreSQL stores it: a value that is read equals the one that was
    /// written.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)().trunc_subsecs(6)
    }
}

impl Default for WallClock {
    /// The system's clock.
    fn default() -> Self {
        Self::new(Utc::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}

/// Formats a time for these tables.
pub(crate) fn format_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Parses RFC 3339, or the text of `CURRENT_TIMESTAMP` and `now()`: with a blank in place of the `T`, and on SQLite
/// without a zone, because it is in UTC.
pub(crate) fn parse_time(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    if let Ok(at) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") {
        return Ok(at.and_utc());
    }
    let parsed = DateTime::parse_from_rfc3339(text)
        .or_else(|error| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").map_err(|_| error));
    parsed
        .map(|at| at.to_utc())
        .map_err(|error| format!("`{text}` is not a time ({error}): write `2026-01-31T12:00:00Z`"))
}
