//! [`WorkItem`]: which columns of an entity make its rows work.
//!
//! `#[derive(WorkItem)]` on a sea-orm model implements it for the module's `Entity`. What the trait has is hidden: it is for
//! the derive and for `claim`, and must not stand in the way of the user's own methods.

use chrono::{DateTime, FixedOffset, Local, NaiveDateTime, Utc};
use sea_orm::prelude::{ChronoUnixTimestamp, ChronoUnixTimestampMillis};
use sea_orm::{ActiveEnum, EntityTrait, Value};

/// An entity whose rows are work: they wait as `pending` and end `completed` or `failed`.
///
/// Derive it on the model: `#[derive(WorkItem)]` with `#[work_item(status = "…")]`. Keys, each naming a column:
///
/// | key | type of the column | what it is for |
/// |---|---|---|
/// | `status` (required) | `String`, or an enum stored as text with `pending`, `completed` and `failed` | where a row stands |
/// | `error` | `String`, `Option<String>` | why it failed the last time; emptied when it completes |
/// | `attempts` | an integer | how often it was tried, the time it succeeded included |
/// | `available_at` | `DateTimeUtc`, `DateTimeWithTimeZone`, `DateTime` (in UTC), `ChronoUnixTimestamp(Millis)`, or an `Option` of these | not before this time; the oldest is claimed first, and of rows without a time the smallest key |
/// | `updated_at` | the same | when its status changed |
///
/// `max_attempts = 5` (a number; needs `attempts`; 3 without it) is how often a row is tried. Without `attempts`, once.
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
}

/// Writes a time as the column's type wants it.
#[doc(hidden)]
pub type TimeValue = fn(DateTime<Utc>) -> Value;

/// A type in which a column may keep a time.
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

/// A time column's writer, for the derive.
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

/// What such an enum is stored as.
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

/// A `String` column knows none in particular.
#[doc(hidden)]
pub fn any_status() -> Vec<String> {
    Vec::new()
}
