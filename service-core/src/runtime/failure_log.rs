//! [`FailureLog`]: logs failures; equal failures in a row are logged less and less often.

use std::time::Duration;

use tokio::time::Instant;

use crate::humanize;
use crate::log::{debug, error, info, warn};
use crate::runtime::policy::Decision;
use crate::runtime::service_inner::ServiceInner;
use crate::service::failure::Failure;

/// Equal failures in a row are logged at least this often.
const AT_LEAST: Duration = Duration::from_secs(3600);

/// Equal failures in a row are logged at 1, 2, 4, 8, …, then hourly.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Option<Box<EqualFailures>>);

/// Equal failures in a row.
#[derive(Debug)]
struct EqualFailures {
    text: String,
    count: u64,
    logged: Instant,
}

impl FailureLog {
    /// Logs a failure and its consequence. A failure that ends the service is always logged, and so is the first of a
    /// run that is given up; `given_up`: an earlier run was, and no success followed. Without a `run`, no instance could
    /// be built.
    pub(crate) fn log(
        &mut self,
        service: &ServiceInner,
        run: Option<u64>,
        failure: &Failure,
        decision: Decision,
        in_outage: bool,
        given_up: bool,
    ) {
        let (id, error, count) = (&service.id, &failure.error, failure.count);
        let what = if run.is_some() { "run failed" } else { "building an instance failed" };
        let counted = humanize::failures(count, failure.max_failures);
        let (wait, consequence) = match decision {
            Decision::Fail => {
                error!(service.id = %id, service.run = run, failures = count, "failed permanently (failure {count}): {error:#}");
                return;
            }
            Decision::Stop => {
                warn!(service.id = %id, service.run = run, failures = count, "{what}, the service stops: {error:#}");
                return;
            }
            Decision::Regular => (None, "ignored by `on_failure`".to_owned()),
            Decision::GiveUp => (None, format!("failure {count}, given up until the next run")),
            Decision::Retry(wait) => (Some(wait), format!("{counted}, retrying in {}", humanize::long(wait))),
            Decision::Rebuild(wait) => {
                (Some(wait), format!("{counted}, retrying with a fresh instance in {}", humanize::long(wait)))
            }
        };
        let text = format!("{error:#}");
        let (equal, is_logged) = self.count(&text);
        let repeated = if equal > 1 { format!(" ({equal} equal failures in a row)") } else { String::new() };
        match wait {
            // Health shows the outage, and a warning was logged when it began.
            Some(wait) if in_outage => {
                let wait = humanize::long(wait);
                debug!(service.id = %id, service.run = run, "{what} during an outage, retrying in {wait}: {text}");
            }
            None if decision == Decision::GiveUp && (is_logged || !given_up) => {
                error!(service.id = %id, service.run = run, failures = count, "{what} ({consequence}): {text}{repeated}");
            }
            _ if is_logged => {
                warn!(service.id = %id, service.run = run, failures = count, "{what} ({consequence}): {text}{repeated}");
            }
            _ => {
                debug!(service.id = %id, service.run = run, failures = count, "{what} ({consequence}): {text}{repeated}");
            }
        }
    }

    /// A run has succeeded.
    pub(crate) fn recovered(&mut self, service: &ServiceInner) {
        if let Some(row) = self.0.take() {
            info!(service.id = %service.id, "run succeeded again (failures in a row with the last error: {})", row.count);
        }
    }

    /// Counts a failure. Returns the number of equal failures in a row, and whether this one is logged.
    fn count(&mut self, text: &str) -> (u64, bool) {
        let now = Instant::now();
        match &mut self.0 {
            Some(row) if row.text == text => {
                row.count += 1;
                let is_logged = row.count.is_power_of_two() || now.duration_since(row.logged) >= AT_LEAST;
                if is_logged {
                    row.logged = now;
                }
                (row.count, is_logged)
            }
            _ => {
                self.0 = Some(Box::new(EqualFailures { text: text.to_owned(), count: 1, logged: now }));
                (1, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn equal_failures_are_logged_at_powers_of_two_then_hourly() {
        let mut log = FailureLog::default();
        let mut logged = Vec::new();
        for n in 1..=20 {
            if log.count("refused").1 {
                logged.push(n);
            }
        }
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        tokio::time::advance(AT_LEAST).await;
        assert_eq!(log.count("refused"), (21, true));
        assert_eq!(log.count("refused"), (22, false));
        assert_eq!(log.count("another"), (1, true));
        assert_eq!(log.count("refused"), (1, true), "another failure came in between");
    }
}
