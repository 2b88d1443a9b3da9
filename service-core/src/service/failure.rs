//! A failed run as `on_failure` sees it, and what may follow.

use std::error::Error as StdError;
use std::time::Duration;

use crate::service::error::Error;

/// How a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// It returned an error.
    Error,
    /// It panicked.
    Panic,
    /// It ran longer than `timeout`.
    Timeout,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Recovery {
    /// Try again after [`Failure::retry_delay`].
    Retry,
    /// Try again after this long, without a cap.
    RetryAfter(Duration),
    /// Do not count it; the next run is the next regular one.
    Ignore,
    /// Stop the service, for manual intervention.
    Stop,
    /// The service is failed now.
    Fail,
}

/// One failure of a service.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) error: Error,
    pub(crate) kind: FailureKind,
    pub(crate) count: u32,
    pub(crate) max_failures: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) recovery: Recovery,
}

impl Failure {
    /// What went wrong.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// How it went wrong.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Consecutive failures, this one included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many consecutive failures are retried.
    pub fn max_failures(&self) -> u32 {
        self.max_failures
    }

    /// How long [`Recovery::Retry`] would wait.
    pub fn retry_delay(&self) -> Duration {
        self.retry_delay
    }

    /// What happens by default.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The first error of type `E` anywhere in the chain, also inside an `io::Error` or an `anyhow::Error`.
    pub fn find<E: StdError + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.find()
    }
}
