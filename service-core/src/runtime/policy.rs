//! The failure policy: decides from counts and durations what follows a failure, without a clock and without a task.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::options::{Exhausted, Options, Restart};
use crate::service::error::{Advice, Error};
use crate::service::failure::{Failure, FailureKind, Recovery};

/// What the supervisor does after a failed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Continue with the next regular run.
    Regular,
    /// Run again after this time.
    Retry(Duration),
    /// Run again after this time, with a fresh instance.
    Rebuild(Duration),
    /// Give the run up: no more retries. Continue with the next regular run.
    GiveUp,
    /// Stop the service.
    Stop,
    /// The service has failed.
    Fail,
}

/// Returns the failure that follows `before` consecutive ones, with the default decision. One that is excused by an
/// outage is not past the limit, and leaves the count at `max_failures`.
pub(crate) fn failure(options: &Options, before: u32, kind: FailureKind, error: Error, excused: bool) -> Failure {
    let count = if excused { options.max_failures.max(1) } else { before.saturating_add(1) };
    let recovery = match error.advice() {
        Advice::None => Recovery::Retry,
        Advice::Fatal => Recovery::Fail,
        Advice::RetryAfter(delay) => Recovery::RetryAfter(delay),
    };
    let mut failure = Failure {
        error,
        kind,
        count,
        max_failures: options.max_failures,
        excused,
        retry_delay: retry_delay(options, count),
        recovery,
    };
    if decide(options, &failure, recovery) == Decision::Fail {
        failure.recovery = Recovery::Fail;
    }
    failure
}

/// Applies the limit to the answer of `on_failure`: past `max_failures`, a retry means what `exhausted` says.
pub(crate) fn decide(options: &Options, failure: &Failure, recovery: Recovery) -> Decision {
    let past_limit = !failure.excused && failure.count > failure.max_failures;
    match recovery {
        Recovery::Retry | Recovery::RetryAfter(_) | Recovery::Rebuild if past_limit => match options.exhausted() {
            Exhausted::Fail => Decision::Fail,
            Exhausted::NextRun => Decision::GiveUp,
        },
        Recovery::Retry => Decision::Retry(failure.retry_delay),
        Recovery::RetryAfter(delay) => Decision::Retry(delay),
        Recovery::Rebuild => Decision::Rebuild(failure.retry_delay),
        Recovery::Ignore => Decision::Regular,
        Recovery::Stop => Decision::Stop,
        Recovery::Fail => Decision::Fail,
    }
}

/// Returns `retry_delay`, times `retry_backoff` for each further failure, at most `max_retry_delay`.
fn retry_delay(options: &Options, count: u32) -> Duration {
    if options.retry_delay.is_zero() {
        // The factor may become infinite, and zero times infinity is not a number.
        return Duration::ZERO;
    }
    let exponent = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = options.retry_delay.as_secs_f64() * options.retry_backoff.powi(exponent);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(options.max_retry_delay)
}

/// The restarts within the last `restart_window`.
#[derive(Debug, Default)]
pub(crate) struct RestartBudget {
    granted: Vec<Instant>,
}

impl RestartBudget {
    /// Returns how long to wait before the restart, or `None` if `max_restarts` is reached.
    pub(crate) fn grant(&mut self, restart: Restart, now: Instant) -> Option<Duration> {
        self.granted.retain(|at| now.duration_since(*at) < restart.window);
        if self.granted.len() >= restart.max as usize {
            return None;
        }
        self.granted.push(now);
        Some(restart.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::UNLIMITED;

    const MAX: u32 = 3;

    fn options() -> Options {
        Options { max_failures: MAX, ..Options::default() }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_answer_and_the_limit_decide_what_follows() {
        let wait = options().retry_delay;
        let table = [
            (0, Recovery::Retry, Decision::Retry(wait)),
            (MAX - 1, Recovery::Retry, Decision::Retry(wait)),
            (MAX, Recovery::Retry, Decision::Fail),
            (MAX, Recovery::RetryAfter(secs(1)), Decision::Fail),
            (0, Recovery::Rebuild, Decision::Rebuild(wait)),
            (MAX, Recovery::Rebuild, Decision::Fail),
            (0, Recovery::RetryAfter(secs(9_999)), Decision::Retry(secs(9_999))),
            (MAX, Recovery::Ignore, Decision::Regular),
            (MAX, Recovery::Stop, Decision::Stop),
            (0, Recovery::Stop, Decision::Stop),
            (0, Recovery::Fail, Decision::Fail),
        ];
        for (before, recovery, decision) in table {
            let failure = failure(&options(), before, FailureKind::Error, Error::msg("x"), false);
            assert_eq!(decide(&options(), &failure, recovery), decision, "{before} before, {recovery:?}");
            let next_run = Options { exhausted: Some(Exhausted::NextRun), ..options() };
            let is_retry = !matches!(recovery, Recovery::Fail);
            let decision = if decision == Decision::Fail && is_retry { Decision::GiveUp } else { decision };
            assert_eq!(decide(&next_run, &failure, recovery), decision, "{before} before, {recovery:?}");
        }
    }

    #[test]
    fn the_error_decides_the_default() {
        let default = |before, error| failure(&options(), before, FailureKind::Error, error, false).recovery();
        assert_eq!(default(0, Error::msg("x")), Recovery::Retry);
        assert_eq!(default(0, Error::fatal("x")), Recovery::Fail);
        assert_eq!(default(0, Error::retry_after(secs(7), "x")), Recovery::RetryAfter(secs(7)));
        assert_eq!(default(MAX, Error::retry_after(secs(7), "x")), Recovery::Fail);
        assert_eq!(default(MAX, Error::msg("x")), Recovery::Fail);
    }

    #[test]
    fn retry_delays_grow_up_to_max_retry_delay() {
        let options = Options {
            retry_delay: secs(5),
            retry_backoff: 2.0,
            max_retry_delay: secs(30),
            max_failures: UNLIMITED,
            ..Options::default()
        };
        let waits: Vec<u64> = (1..=5).map(|n| retry_delay(&options, n).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 30, 30]);
        assert_eq!(retry_delay(&options, u32::MAX), secs(30));
        let at_once = Options { retry_delay: Duration::ZERO, ..options };
        for count in [1, 2, 1_025, u32::MAX] {
            assert_eq!(retry_delay(&at_once, count), Duration::ZERO, "failure {count}");
        }
    }

    #[test]
    fn a_restart_is_possible_again_when_an_old_one_leaves_the_window() {
        let restart = Restart { delay: secs(60), max: 2, window: secs(600) };
        let t0 = Instant::now();
        let mut budget = RestartBudget::default();
        let granted: Vec<bool> =
            [0, 10, 20, 599, 600, 601].iter().map(|s| budget.grant(restart, t0 + secs(*s)).is_some()).collect();
        assert_eq!(granted, [true, true, false, false, true, false]);
    }
}
