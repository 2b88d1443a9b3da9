//! [`RunSummary`]: one run, as `run` and `run-once` print it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::humanize;
use crate::service::outcome::RunReport;

/// One run, or one that has not ended yet.
#[derive(Debug, Serialize)]
pub(crate) struct RunSummary {
    pub(crate) service_id: String,
    /// The number of the run; `None` for a run in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<u64>,
    /// `None`: the run has not ended.
    pub(crate) succeeded: Option<bool>,
    pub(crate) processed: u64,
    pub(crate) failed: u64,
    /// Whether the run left work for the next one, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<bool>,
    pub(crate) duration_ms: Option<f64>,
    pub(crate) error: Option<String>,
}

impl RunSummary {
    /// Returns the summary of a run in this process.
    pub(crate) fn of(id: &str, report: &RunReport) -> Self {
        Self {
            service_id: id.to_owned(),
            run: None,
            succeeded: Some(report.error().is_none()),
            processed: report.processed(),
            failed: report.failed(),
            again: Some(report.again()),
            duration_ms: Some(report.duration().as_secs_f64() * 1_000.0),
            error: report.error().map(|error| format!("{error:#}")),
        }
    }

    /// Returns whether the run has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.succeeded == Some(false)
    }
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.service_id)?;
        match self.run {
            Some(run) => write!(f, "run {run} ")?,
            None => write!(f, "the run ")?,
        }
        let Some(succeeded) = self.succeeded else {
            return write!(f, "has not ended yet; `status {}` shows its end", self.service_id);
        };
        let took = humanize::long(duration(self.duration_ms.unwrap_or_default()));
        if !succeeded {
            return write!(f, "failed after {took}: {}", self.error.as_deref().unwrap_or("no error is known"));
        }
        let more = if self.again == Some(true) { "; there is more to do" } else { "" };
        write!(f, "succeeded in {took}: {} processed, {} failed{more}", self.processed, self.failed)
    }
}

/// Returns a duration from milliseconds. What is no duration is zero.
pub(crate) fn duration(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1_000.0).unwrap_or_default()
}
