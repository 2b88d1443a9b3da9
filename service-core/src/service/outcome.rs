//! [`Outcome`]: the result of a run, and the types that convert into it.

use std::error::Error as StdError;
use std::time::Duration;

use crate::service::error::{Error, Result};

/// The result of one successful run of `update`: items processed, items failed, and whether there is more to do.
///
/// ```
/// use service_core::Outcome;
/// let outcome = Outcome::processed(98).failed(2).again();
/// assert_eq!((outcome.items_processed(), outcome.items_failed(), outcome.has_more()), (98, 2, true));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    pub(crate) processed: u64,
    pub(crate) failed: u64,
    pub(crate) again: bool,
}

impl Outcome {
    /// Creates the outcome of a run that found nothing to do: 0 items.
    pub const fn idle() -> Self {
        Self { processed: 0, failed: 0, again: false }
    }

    /// Creates the outcome of a run that processed this many items.
    pub const fn processed(items: u64) -> Self {
        Self { processed: items, failed: 0, again: false }
    }

    /// Adds the number of items that failed individually. They do not make the run a failure.
    pub const fn failed(mut self, items: u64) -> Self {
        self.failed = items;
        self
    }

    /// Requests the next run at once, because there is more to do. A stop or pause takes effect in between.
    pub const fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// Returns the number of items processed.
    pub const fn items_processed(&self) -> u64 {
        self.processed
    }

    /// Returns the number of items that failed individually.
    pub const fn items_failed(&self) -> u64 {
        self.failed
    }

    /// Returns whether the next run follows at once.
    pub const fn has_more(&self) -> bool {
        self.again
    }
}

/// What `update` may return: `()`, [`Outcome`], `Result<(), E>` or `Result<Outcome, E>`.
#[diagnostic::on_unimplemented(
    message = "`update` cannot return `{Self}`",
    label = "not a result of a run",
    note = "return `()`, `Outcome`, `Result<(), E>` or `Result<Outcome, E>`, where `E` converts into a boxed error"
)]
pub trait IntoOutcome {
    /// Converts into the outcome, or the error of a failed run.
    fn into_outcome(self) -> Result<Outcome>;
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for () {
    fn into_outcome(self) -> Result<Outcome> {
        Ok(Outcome::idle())
    }
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Result<Outcome> {
        Ok(self)
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<Box<dyn StdError + Send + Sync>> + 'static> IntoOutcome for std::result::Result<(), E> {
    fn into_outcome(self) -> Result<Outcome> {
        self.map(|()| Outcome::idle()).map_err(Error::new)
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<Box<dyn StdError + Send + Sync>> + 'static> IntoOutcome for std::result::Result<Outcome, E> {
    fn into_outcome(self) -> Result<Outcome> {
        self.map_err(Error::new)
    }
}

/// The result of one run, as `run_now` and `TestBed::update` return it.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<Error>,
    pub(crate) duration: Duration,
}

impl RunReport {
    /// Returns the error if the run failed.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns the number of items processed.
    pub fn processed(&self) -> u64 {
        self.outcome.processed
    }

    /// Returns the number of items that failed individually.
    pub fn failed(&self) -> u64 {
        self.outcome.failed
    }

    /// Returns whether the run requested the next run at once.
    pub fn again(&self) -> bool {
        self.outcome.again
    }

    /// Returns how long the run took.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
