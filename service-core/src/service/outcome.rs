//! What a run gives back: [`Outcome`], and everything that turns into one.

use std::error::Error as StdError;
use std::time::Duration;

use crate::service::error::{Error, Result};

/// What one run of `update` did.
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
    /// There was nothing to do.
    pub const fn idle() -> Self {
        Self { processed: 0, failed: 0, again: false }
    }

    /// This many items were worked off.
    pub const fn processed(items: u64) -> Self {
        Self { processed: items, failed: 0, again: false }
    }

    /// Adds items that failed by themselves. They do not make the run a failure.
    pub const fn failed(mut self, items: u64) -> Self {
        self.failed = items;
        self
    }

    /// There is more to do: run again at once, without waiting. A stop or pause still takes effect in between.
    pub const fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// Items worked off.
    pub const fn items_processed(&self) -> u64 {
        self.processed
    }

    /// Items that failed by themselves.
    pub const fn items_failed(&self) -> u64 {
        self.failed
    }

    /// Whether the next run is to follow at once.
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
    /// The outcome, or the failure.
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

/// How one run went, as `run_now` and `TestBed::update` tell it.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<Error>,
    pub(crate) duration: Duration,
}

impl RunReport {
    /// Why the run failed, if it did.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Items worked off.
    pub fn processed(&self) -> u64 {
        self.outcome.processed
    }

    /// Items that failed by themselves.
    pub fn failed(&self) -> u64 {
        self.outcome.failed
    }

    /// Whether the run asked to be followed at once by the next.
    pub fn again(&self) -> bool {
        self.outcome.again
    }

    /// How long the run took.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}
