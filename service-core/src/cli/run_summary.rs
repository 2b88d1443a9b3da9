//! [`RunSummary`]: one run, as `run` and `run-once` print it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::terminal;
use crate::humanize;
use crate::service::outcome::RunReport;

/// One run, or one that has not ended yet.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RunSummary {
    /// The admin interface does not return it.
    #[serde(default)]
    pub(crate) service_id: String,
    /// The number of the run; `None` for a run in this process or on another replica.
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
    /// Whether another replica makes the run.
    #[serde(skip)]
    pub(crate) is_elsewhere: bool,
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
            is_elsewhere: false,
        }
    }

    /// Returns the summary of a run that has been requested, and has not ended.
    pub(crate) fn not_ended(id: &str, is_elsewhere: bool) -> Self {
        Self { service_id: id.to_owned(), is_elsewhere, ..Self::default() }
    }

    /// Describes the run in a line.
    pub(crate) fn line(&self) -> String {
        terminal::clean(&format!("{self}\n"))
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
            let place = if self.is_elsewhere { " on the replica that runs the service" } else { "" };
            return write!(f, "has not ended yet; `status {}` shows its end{place}", self.service_id);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(report: serde_json::Value) -> RunSummary {
        let report: RunSummary = serde_json::from_value(report).unwrap();
        RunSummary { service_id: "mailer".to_owned(), ..report }
    }

    #[test]
    fn a_report_of_the_admin_interface_is_described() {
        let succeeded = answered(serde_json::json!({
            "run": 117, "succeeded": true, "processed": 3, "failed": 1, "again": true, "duration_ms": 1200.0, "error": null,
        }));
        assert_eq!(
            succeeded.to_string(),
            "mailer: run 117 succeeded in 1.2 s: 3 processed, 1 failed; there is more to do"
        );
        assert!(!succeeded.has_failed());
        let elsewhere = answered(serde_json::json!({
            "run": null, "succeeded": false, "processed": 0, "failed": 0, "again": false, "duration_ms": 20.0, "error": "no answer",
        }));
        assert_eq!(elsewhere.to_string(), "mailer: the run failed after 20 ms: no answer");
        assert!(elsewhere.has_failed());
        let hostile = RunSummary { error: Some("\u{1b}[2Jno\nanswer".to_owned()), ..elsewhere };
        assert_eq!(hostile.line(), "mailer: the run failed after 20 ms: \u{FFFD}[2Jno\nanswer\n");
    }

    #[test]
    fn a_run_that_has_not_ended_names_the_place_of_its_end() {
        let here = RunSummary::not_ended("mailer", false);
        assert_eq!(here.to_string(), "mailer: the run has not ended yet; `status mailer` shows its end");
        let elsewhere = RunSummary::not_ended("mailer", true).to_string();
        assert!(elsewhere.ends_with("shows its end on the replica that runs the service"), "{elsewhere}");
        assert!(!here.has_failed());
    }
}
