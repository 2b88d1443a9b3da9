//! [`WorkItem`]: the columns by which rows of an entity are work.
//!
//! `#[derive(WorkItem)]` on a sea-orm model implements it for the module's `Entity`. The trait's items are hidden: only
//! the derive and `claim` use them, and they must not clash with the user's own methods.

use std::time::Duration;

use chrono::{DateTime, FixedOffset, Local, NaiveDateTime, Utc};
use sea_orm::prelude::{ChronoUnixTimestamp, ChronoUnixTimestampMillis};
use sea_orm::{ActiveEnum, EntityTrait, Value};

/// An entity whose rows are work: they wait as `pending` and end as `completed` or `failed`.
///
/// Derive it on the model: `#[derive(WorkItem)]` with `#[work_item(status = "…")]`. Keys, each naming a column:
///
/// | key | type of the column | what it is for |
/// |---|---|---|
/// | `status` (required) | `String`, or an enum stored as text with `pending`, `completed` and `failed` | the status of the row |
/// | `error` | `String`, `Option<String>` | the message of the last failure; emptied when the row completes |
/// | `attempts` | an integer | the number of attempts, including the one that succeeded |
/// | `available_at` | `DateTimeUtc`, `DateTimeWithTimeZone`, `DateTime` (in UTC), `ChronoUnixTimestamp(Millis)`, or an `Option` of these | the row is not claimed before this time |
/// | `updated_at` | the same | when the status changed |
///
/// Half of a batch are rows whose `available_at` is NULL, in the order of the key. The other half are rows whose time
/// has come, the earliest first.
///
/// `max_attempts = 5` sets how many attempts a row has (a number; needs `attempts`; default 3). Without `attempts` a
/// row has one.
///
/// `retain_completed = "30d"` deletes completed rows after that time (seconds, or a string with a unit; needs
/// `updated_at`; default: they stay). A registry whose services claim from the table deletes every hour, 1,000 rows a
/// statement, and of several replicas one. Rows that failed stay.
#[diagnostic::on_unimplemented(
    message = "the rows of `{Self}` are not work items",
    label = "no `#[derive(WorkItem)]` on this entity's model",
    note = "add `WorkItem` to the derives of the model and `#[work_item(status = \"status\")]` below them"
)]
pub trait WorkItem: EntityTrait<Model: Sync> {
    #[doc(hidden)]
    fn __work() -> Work<Self::Column>;
}

/// The columns that `#[work_item(…)]` names.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Work<C> {
    pub status: C,
    pub known_statuses: fn() -> Vec<String>,
    pub error: Option<C>,
    pub attempts: Option<C>,
    pub max_attempts: u32,
    pub available_at: Option<(C, TimeValue)>,
    pub updated_at: Option<(C, TimeValue)>,
    /// How long completed rows are kept.
    pub retain_completed: Option<Duration>,
}

/// Converts a time into a value of the column's type.
#[doc(hidden)]
pub type TimeValue = fn(DateTime<Utc>) -> Value;

/// A type of a column that stores a time.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time that a work item's column can have",
    label = "not a time",
    note = "use `DateTimeUtc`, `DateTimeWithTimeZone`, `DateTime`, `ChronoUnixTimestamp`, `ChronoUnixTimestampMillis`, or an `Option` of one"
)]
pub trait WorkTime: Into<Value> {
    fn at(time: DateTime<Utc>) -> Self;
}

impl WorkTime for DateTime<Utc> {
    fn at(time: DateTime<Utc>) -> Self {
        time
    }
}

impl WorkTime for DateTime<FixedOffset> {
    fn at(time: DateTime<Utc>) -> Self {
        time.fixed_offset()
    }
}

impl WorkTime for DateTime<Local> {
    fn at(time: DateTime<Utc>) -> Self {
        time.with_timezone(&Local)
    }
}

impl WorkTime for NaiveDateTime {
    fn at(time: DateTime<Utc>) -> Self {
        time.naive_utc()
    }
}

impl WorkTime for ChronoUnixTimestamp {
    fn at(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl WorkTime for ChronoUnixTimestampMillis {
    fn at(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl<T: WorkTime> WorkTime for Option<T>
where
    Option<T>: Into<Value>,
{
    fn at(time: DateTime<Utc>) -> Self {
        Some(T::at(time))
    }
}

/// Converts a time into a value of the column's type, for the derive.
#[doc(hidden)]
pub fn time_value<T: WorkTime>(time: DateTime<Utc>) -> Value {
    T::at(time).into()
}

/// An enum that a status column may have.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a status that a work item's column can have",
    label = "neither `String` nor an enum stored as text",
    note = "use `String`, or an enum with `#[derive(EnumIter, DeriveActiveEnum)]` and `#[sea_orm(rs_type = \"String\", …)]` whose values include `pending`, `completed` and `failed`"
)]
pub trait StatusEnum {
    fn statuses() -> Vec<String>;
}

impl<T: ActiveEnum<Value: StatusText>> StatusEnum for T {
    fn statuses() -> Vec<String> {
        T::iter().map(|status| status.to_value().text()).collect()
    }
}

/// The type as which such an enum is stored.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a work item's status is stored as text, this one as `{Self}`",
    label = "not stored as text",
    note = "use `rs_type = \"String\"`, with the values `pending`, `completed` and `failed` among others"
)]
pub trait StatusText {
    fn text(self) -> String;
}

impl StatusText for String {
    fn text(self) -> String {
        self
    }
}

/// The statuses that a column's enum knows, for the derive.
#[doc(hidden)]
pub fn known_statuses<T: StatusEnum>() -> Vec<String> {
    T::statuses()
}

/// The same for a `String` column, which can have any status.
#[doc(hidden)]
pub fn any_status() -> Vec<String> {
    Vec::new()
}
