//! The wall clock as the database code reads it, so that a test can move it, and times as the framework's tables keep them.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, SubsecRound, Utc};

/// Tells what time it is. Cheap to clone.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl WallClock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time, in whole microseconds: PostgreSQL keeps no finer ones, and a value read back shall equal the one written.
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

/// A time as these tables keep it.
pub(crate) fn format_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// RFC 3339, or what `CURRENT_TIMESTAMP` and `now()` leave in a text column: a blank for the `T`, and on SQLite no zone, as
/// it is UTC.
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
