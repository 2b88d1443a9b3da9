//! [`OperatorStore`]: what keeps the changes of operators, and tables of work. A database implements it; a companion uses it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::rfc3339;
use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::registration::RegisteredService;
use crate::runtime::services::Services;
use crate::service::error::Result;

/// The key of the overrides that pause services. It is neither an option nor a setting.
pub(crate) const PAUSED: &str = "paused";

/// What keeps overrides and the audit, and knows the tables of work.
pub(crate) trait OperatorStore: fmt::Debug + Send + Sync {
    /// Whether other replicas may use the same store. An SQLite file counts as that of one program.
    fn has_replicas(&self) -> bool;

    /// Checks whether an override can be used. Returns the reason if it cannot.
    fn check_override(
        &self,
        services: &Services,
        service: &RegisteredService,
        key: &str,
        value: &Value,
    ) -> std::result::Result<(), String>;

    /// Writes an override, and applies it here at once.
    ///
    /// # Errors
    /// Those of the database; [`NotApplied`].
    fn set_override<'a>(&'a self, services: &'a Services, new: StoredOverride) -> BoxFuture<'a, Result<()>>;

    /// Removes an override, and applies that here at once. Returns whether there was one.
    ///
    /// # Errors
    /// Those of the database; [`NotApplied`].
    fn remove_override<'a>(&'a self, services: &'a Services, id: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Returns the overrides of a service that have not expired.
    ///
    /// # Errors
    /// Those of the database.
    fn overrides<'a>(&'a self, services: &'a Services, id: &'a str) -> BoxFuture<'a, Result<Vec<StoredOverride>>>;

    /// Reads the rows again, and returns those that pause a service.
    ///
    /// # Errors
    /// Those of the database.
    fn pauses<'a>(
        &'a self,
        services: &'a Services,
        service: &'a RegisteredService,
    ) -> BoxFuture<'a, Result<StoredPauses>>;

    /// Returns the time by which overrides expire, and entries of the audit are ordered: that of the database.
    ///
    /// # Errors
    /// Those of the database.
    fn now<'a>(&'a self, services: &'a Services) -> BoxFuture<'a, Result<SystemTime>>;

    /// Adds an entry to the audit, and removes the entries that are older than 90 days, by the clock of the database.
    ///
    /// # Errors
    /// Those of the database.
    fn record<'a>(&'a self, services: &'a Services, entry: &'a AuditEntry) -> BoxFuture<'a, Result<()>>;

    /// Returns the entries of the audit, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    fn audit<'a>(&'a self, page: &'a AuditPage) -> BoxFuture<'a, Result<Vec<AuditEntry>>>;

    /// Returns the tables of work that are linked into the program, sorted by name.
    fn work_tables(&self) -> Vec<Arc<dyn WorkTable>>;
}

/// What was written is not in effect here yet: the overrides cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("stored, but not in effect yet")]
pub(crate) struct NotApplied(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// One override of one service.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StoredOverride {
    #[serde(skip)]
    pub(crate) service_id: String,
    pub(crate) key: String,
    /// A secret is `•••` where it is shown.
    pub(crate) value: Value,
    pub(crate) by: String,
    pub(crate) why: String,
    /// When it was set. Ignored where it is written: the store sets it.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub(crate) at: SystemTime,
    /// When it expires.
    #[serde(serialize_with = "rfc3339::optional::serialize")]
    pub(crate) until: Option<SystemTime>,
}

/// What pauses a service by rows.
#[derive(Clone, Debug)]
pub(crate) struct StoredPauses {
    /// Whether its own override pauses it.
    pub(crate) own: bool,
    /// What would pause it without its own override.
    pub(crate) other: Option<OtherPause>,
}

/// A row that pauses a service, other than its own override.
#[derive(Clone, Debug)]
pub(crate) struct OtherPause {
    /// The row, as text.
    pub(crate) place: String,
    /// The name that the override is for: a type, or `defaults`. `None`: it is not an override.
    pub(crate) of: Option<String>,
}

/// What an operator changed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AuditEntry {
    /// Later entries have greater ids.
    pub(crate) id: String,
    #[serde(serialize_with = "rfc3339::serialize")]
    pub(crate) at: SystemTime,
    /// The service, or the table of work.
    pub(crate) subject: String,
    /// `pause`, `override`, `retry` …
    pub(crate) action: String,
    /// What was set, as text.
    pub(crate) detail: String,
    pub(crate) by: String,
    pub(crate) why: String,
}

impl AuditEntry {
    /// Returns an entry of this time, with an id of its own.
    pub(crate) fn new(at: SystemTime, subject: &str, action: &str, detail: String, by: &str, why: &str) -> Self {
        let owned = str::to_owned;
        let id = format!("{}-{:08x}", id_of(at), fastrand::u32(..));
        Self { id, at, subject: owned(subject), action: owned(action), detail, by: owned(by), why: owned(why) }
    }
}

/// Returns the beginning of the ids of entries of this time. Ids have the order of their times.
pub(crate) fn id_of(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{:016x}", since.as_micros())
}

/// Which entries of the audit to return.
#[derive(Clone, Debug)]
pub(crate) struct AuditPage {
    /// Only of this service or table.
    pub(crate) subject: Option<String>,
    /// Only entries with a smaller id.
    pub(crate) before: Option<String>,
    pub(crate) limit: u32,
}

/// A table of work.
pub(crate) trait WorkTable: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    /// Counts the rows, without the failed ones. A count ends at `cap`.
    ///
    /// # Errors
    /// Those of the database.
    fn count(&self, cap: u64) -> BoxFuture<'_, Result<WorkCounts>>;

    /// Counts the failed rows, up to `cap`. The claim index does not have them, so this may read the whole table.
    ///
    /// # Errors
    /// It takes longer than 5 s; or those of the database.
    fn count_failed(&self, cap: u64) -> BoxFuture<'_, Result<u64>>;

    /// Returns failed rows with their errors, the latest keys first.
    ///
    /// # Errors
    /// Those of the database.
    fn failed(&self, offset: u64, limit: u64) -> BoxFuture<'_, Result<Vec<FailedRow>>>;

    /// Returns how many columns the primary key has.
    fn key_columns(&self) -> usize;

    /// Makes failed rows pending again: those with these keys, or all. Each key has a part for each column.
    fn retry<'a>(&'a self, keys: Option<&'a [Vec<String>]>) -> BoxFuture<'a, Retried>;
}

/// What a retry of failed rows has done.
#[derive(Debug)]
pub(crate) struct Retried {
    /// How many rows are pending again, also if it failed later.
    pub(crate) rows: u64,
    /// The errors are those of the database.
    pub(crate) result: Result<()>,
}

/// The rows of a table of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct WorkCounts {
    /// Rows with the status `pending`.
    pub(crate) pending: u64,
    /// Pending rows whose time has come.
    pub(crate) due: u64,
    /// Rows that are claimed by `claim_each`.
    pub(crate) in_flight: u64,
    /// Rows with the status `failed`. `None`: they have never been counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<u64>,
    /// For how long the oldest due row has been due, in seconds; `None` if there is none, or no column has a time.
    pub(crate) oldest_due_seconds: Option<f64>,
}

/// A failed row of a table of work.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailedRow {
    /// The primary key, one text for each column.
    pub(crate) key: Vec<String>,
    pub(crate) error: Option<String>,
    pub(crate) attempts: Option<i64>,
    pub(crate) updated_at: Option<String>,
}
