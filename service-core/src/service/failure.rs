//! [`Failure`]: a failed run, as `on_failure` receives it. [`Recovery`]: what follows the failure.

use std::error::Error as StdError;
use std::time::Duration;

use crate::service::error::Error;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The run returned an error.
    Error,
    /// The run panicked.
    Panic,
    /// The run took longer than `timeout`, a `run` reported no progress for `idle_timeout`, or a run did not end in
    /// time for a stop.
    Timeout,
}

/// What follows a failure: the answer of `on_failure`. After more than `max_failures` failures in a row, `Retry`,
/// `RetryAfter` and `Rebuild` have the effect of the option `exhausted`.
///
/// ```
/// use std::io;
/// use service_core::prelude::*;
///
/// #[derive(Default)]
/// struct Reader;
///
/// #[service(interval = 60, discover = false)]
/// impl Reader {
///     async fn update(&mut self) -> io::Result<()> {
///         Ok(())
///     }
///
///     fn on_failure(&mut self, failure: &Failure) -> Recovery {
///         match failure.find::<io::Error>().map(io::Error::kind) {
///             Some(io::ErrorKind::PermissionDenied) => Recovery::Stop,
///             Some(io::ErrorKind::BrokenPipe) => Recovery::Rebuild,
///             _ => failure.recovery(),
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Recovery {
    /// Retry after [`Failure::retry_delay`].
    Retry,
    /// Retry after this time. `max_retry_delay` does not cap it.
    RetryAfter(Duration),
    /// Retry after [`Failure::retry_delay`] with a fresh instance. For an instance that cannot be repaired, such as one
    /// with a broken connection.
    Rebuild,
    /// Do not count the failure. The next run is the next regular one, and a cron fire counts as served.
    Ignore,
    /// Stop the service, for manual intervention. It is `Stopped` and unhealthy until it is started again.
    Stop,
    /// The service becomes `Failed` now.
    Fail,
}

/// One failure of a service.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) error: Error,
    pub(crate) kind: FailureKind,
    pub(crate) count: u32,
    pub(crate) max_failures: u32,
    /// An outage keeps it from exhausting the service.
    pub(crate) excused: bool,
    pub(crate) retry_delay: Duration,
    pub(crate) recovery: Recovery,
}

impl Failure {
    /// Returns the error of the run.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns the number of consecutive failures, including this one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns how many consecutive failures are retried; `u32::MAX` if any number is.
    pub fn max_failures(&self) -> u32 {
        self.max_failures
    }

    /// Returns how long [`Recovery::Retry`] would wait.
    pub fn retry_delay(&self) -> Duration {
        self.retry_delay
    }

    /// Returns the default decision: what follows without `on_failure`.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Returns the first error of type `E` in the chain, also inside an `io::Error` or an `anyhow::Error`.
    pub fn find<E: StdError + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.find()
    }
}
