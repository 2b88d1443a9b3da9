//! Health as text: the services in trouble come first, each with its reason.

use std::cmp::Reverse;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::cli::run_summary;
use crate::cli::terminal::{self, Terminal};
use crate::humanize::{self, relative};
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::rfc3339;
use crate::runtime::labels;
use crate::service::state::ServiceState;

/// From this width on, the table of healthy services also has their states and runs.
const WIDE: u16 = 60;
/// How many runs of one service are shown.
const RUNS: usize = 10;

/// A run that has ended, as the admin interface returns it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Run {
    run: u64,
    #[serde(with = "rfc3339")]
    started_at: SystemTime,
    duration_ms: f64,
    succeeded: bool,
    processed: u64,
    failed: u64,
    /// `error`, `panic` or `timeout`.
    failure: Option<String>,
    error: Option<String>,
}

/// Sorts the worst first; among equals, optional ones last.
pub(crate) fn sort(services: &mut [ServiceHealth]) {
    services.sort_by(|a, b| {
        let rank = |health: &ServiceHealth| (Reverse(health.status), health.optional);
        rank(a).cmp(&rank(b)).then_with(|| a.service_id.cmp(&b.service_id))
    });
}

/// Shows all services, in the order given: those that need attention with the reason, then a table of the healthy ones.
pub(crate) fn overview(services: &[ServiceHealth], now: SystemTime, terminal: Terminal) -> String {
    let count = |status| services.iter().filter(|health| health.status == status).count();
    let parts = HealthStatus::ALL.into_iter().rev().map(|status| (count(status), status));
    let parts: Vec<String> =
        parts.filter(|(count, _)| *count > 0).map(|(count, status)| format!("{count} {status}")).collect();
    let total = humanize::services(services.len());
    let mut text = terminal
        .paragraph(0, &format!("{total}: {}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }));
    let (well, ill): (Vec<_>, Vec<_>) = services.iter().partition(|health| health.status == HealthStatus::Healthy);
    for health in ill {
        text += "\n";
        text += &heading(health, terminal);
        let reason = health.reason.as_deref().unwrap_or("no reason is known");
        text += &terminal.paragraph(4, reason);
        let (last, next) = (last_success(health, now), next(health, now));
        text += &terminal.paragraph(4, &if reason.contains(&last) { next } else { format!("{last}; {next}") });
    }
    if well.is_empty() {
        return text;
    }
    text += "\n";
    text += &terminal.paint(HealthStatus::Healthy, &format!("{} healthy", HealthStatus::Healthy.sign()));
    text += "\n";
    let time = |at: Option<SystemTime>| at.map_or_else(|| "-".to_owned(), |at| relative(at, now));
    if terminal.has_columns(WIDE) {
        let row = |health: &&ServiceHealth| {
            let (state, runs) = (health.state.in_words(), health.runs.to_string());
            [title(health), state, time(health.last_success), time(health.next_run), runs]
        };
        let header = ["SERVICE", "STATE", "LAST SUCCESS", "NEXT RUN", "RUNS"];
        text += &terminal.table(2, Some(header), well.iter().map(row));
    } else {
        let row = |health: &&ServiceHealth| [title(health), time(health.last_success), time(health.next_run)];
        text += &terminal.table(2, Some(["SERVICE", "LAST SUCCESS", "NEXT RUN"]), well.iter().map(row));
    }
    text
}

/// Shows one service and its last runs, the newest first.
pub(crate) fn one(health: &ServiceHealth, runs: &[Run], now: SystemTime, terminal: Terminal) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |label: &str, text: String| rows.push([label.to_owned(), text]);
    if let Some(reason) = &health.reason {
        row("why", reason.clone());
    }
    row("next run", next(health, now).trim_start_matches("next run ").to_owned());
    row("last success", health.last_success.map_or_else(|| "none".to_owned(), |at| absolute(at, now)));
    row("last run", health.last_run.map_or_else(|| "none".to_owned(), |at| absolute(at, now)));
    let limit = health.max_failures.map_or_else(String::new, |limit| format!(" ({limit} are retried)"));
    row("failures", format!("{} in a row{limit}, {} in all", health.failures, health.error_count));
    row("runs", health.runs.to_string());
    row("items", format!("{} processed, {} failed", health.total_processed, health.total_failed));
    if health.restarts > 0 {
        row("restarts", health.restarts.to_string());
    }
    for (name, value) in &health.metrics {
        row(name, value.to_string());
    }
    if let Some(error) = health.last_error.as_ref().filter(|error| !contains(health.reason.as_deref(), error)) {
        row("last error", error.clone());
    }
    let mut text = heading(health, terminal);
    text += &terminal.table(2, None, rows);
    let run = |run: &Run| {
        let result = match run.succeeded {
            true => format!("● {} processed, {} failed", run.processed, run.failed),
            false => {
                let kind = run.failure.as_deref().unwrap_or("error");
                format!("✖ {kind}: {}", run.error.as_deref().unwrap_or("no error is known"))
            }
        };
        let took = humanize::long(run_summary::duration(run.duration_ms));
        [run.run.to_string(), relative(run.started_at, now), took, result]
    };
    if !runs.is_empty() {
        text += "\n";
        text += &terminal.table(2, Some(["RUN", "STARTED", "TOOK", "RESULT"]), runs.iter().take(RUNS).map(run));
    }
    text
}

/// Describes a service in a line, after a command.
pub(crate) fn line(health: &ServiceHealth) -> String {
    let reason = health.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    terminal::clean(&format!("{} is {}, {}{reason}\n", health.service_id, health.state.in_words(), health.status))
}

/// The line above the details of a service.
fn heading(health: &ServiceHealth, terminal: Terminal) -> String {
    let (sign, state) = (health.status.sign(), health.state.in_words());
    let status = format!("{sign} {}  {}, {state}", title(health), health.status);
    terminal.paragraph(0, &status).lines().map(|line| terminal.paint(health.status, line) + "\n").collect()
}

/// The id, and what belongs to it.
fn title(health: &ServiceHealth) -> String {
    let mut title = health.service_id.clone();
    if !health.labels.is_empty() {
        title += &format!(" ({})", labels::text(&health.labels));
    }
    if health.optional {
        title += " (optional)";
    }
    title
}

/// Whether the reason says this error already.
fn contains(reason: Option<&str>, error: &str) -> bool {
    reason.is_some_and(|reason| reason.contains(error))
}

fn last_success(health: &ServiceHealth, now: SystemTime) -> String {
    match health.last_success {
        Some(at) => format!("last success {}", relative(at, now)),
        None => "no success yet".to_owned(),
    }
}

/// Describes what the service does next.
fn next(health: &ServiceHealth, now: SystemTime) -> String {
    match (health.state, health.next_run) {
        (ServiceState::Failed, _) => format!("no run until `reset {}`", health.service_id),
        (ServiceState::Paused, _) => format!("no scheduled run until `resume {}`", health.service_id),
        (ServiceState::Created | ServiceState::Stopped, _) => format!("no run until `start {}`", health.service_id),
        (_, Some(at)) => format!("next run {}", relative(at, now)),
        (ServiceState::Standby, None) => "the next run is on another replica".to_owned(),
        (_, None) if health.in_run => "a run is in progress".to_owned(),
        (_, None) => "no next run is scheduled now".to_owned(),
    }
}

fn absolute(at: SystemTime, now: SystemTime) -> String {
    format!("{} ({})", relative(at, now), rfc3339::seconds(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(id: &str, state: &str, status: &str, reason: Option<&str>) -> ServiceHealth {
        let health = serde_json::json!({
            "service_id": id, "state": state, "status": status, "reason": reason, "running": true, "paused": false, "failures": 4,
            "max_failures": 3, "last_run": "2026-01-31T11:59:00Z", "last_success": "2026-01-31T11:55:00Z",
            "next_run": if state == "running" { Some("2026-01-31T12:00:40Z") } else { None }, "last_run_duration_ms": 20,
            "last_error": reason, "total_processed": 3, "total_failed": 0, "error_count": 4, "runs": 118, "restarts": 0,
            "metrics": {},
        });
        serde_json::from_value(health).unwrap()
    }

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-01-31T12:00:00Z").unwrap()
    }

    const ERROR: &str = "failed after 4 failures in a row: the server mail.example.org:587 answered `550 denied`";

    fn services() -> Vec<ServiceHealth> {
        let mut services = vec![
            health("feed", "running", "healthy", None),
            health("importer", "paused", "degraded", Some("paused by an operator")),
            health("mail_sender", "failed", "unhealthy", Some(ERROR)),
        ];
        sort(&mut services);
        services
    }

    #[test]
    fn the_worst_service_is_first_and_says_why_and_what_it_does_next() {
        let text = overview(&services(), now(), Terminal { width: Some(80), colour: false });
        let expected = "\
3 services: 1 unhealthy, 1 degraded, 1 healthy

✖ mail_sender  unhealthy, failed
    failed after 4 failures in a row: the server mail.example.org:587 answered
    `550 denied`
    last success 5 min ago; no run until `reset mail_sender`

▲ importer  degraded, paused
    paused by an operator
    last success 5 min ago; no scheduled run until `resume importer`

● healthy
  SERVICE  STATE    LAST SUCCESS  NEXT RUN  RUNS
  feed     running  5 min ago     in 40 s   118
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_line_after_a_command_has_nothing_that_controls_the_terminal() {
        let text = line(&health("feed", "failed", "unhealthy", Some("failed: \u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J")));
        assert_eq!(text, "feed is failed, unhealthy: failed: \u{FFFD}]0;owned\u{FFFD}\u{FFFD}[2J\u{FFFD}2J\n");
    }

    #[test]
    fn a_service_in_a_run_or_on_standby_says_so_instead_of_a_time() {
        let said = |state: &str, more: fn(&mut ServiceHealth)| {
            let mut health = health("feed", state, "healthy", None);
            health.next_run = None;
            more(&mut health);
            next(&health, now())
        };
        assert_eq!(said("standby", |_| {}), "the next run is on another replica");
        for state in ["running", "draining"] {
            assert_eq!(said(state, |health| health.in_run = true), "a run is in progress");
        }
        assert_eq!(said("running", |_| {}), "no next run is scheduled now");
    }

    #[test]
    fn a_narrow_terminal_shows_the_same_services_without_overlong_lines() {
        let text = overview(&services(), now(), Terminal { width: Some(40), colour: false });
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        for word in ["✖ mail_sender", "▲ importer", "● healthy", "feed", "in 40 s", "`550"] {
            assert!(text.contains(word), "{word} is not in:\n{text}");
        }
    }

    #[test]
    fn one_service_is_shown_with_its_last_runs() {
        let runs: Vec<Run> = serde_json::from_value(serde_json::json!([
            { "run": 118, "started_at": "2026-01-31T11:59:00Z", "duration_ms": 20.4, "succeeded": false, "processed": 0, "failed": 0,
              "failure": "timeout", "error": "no answer" },
            { "run": 117, "started_at": "2026-01-31T11:55:00Z", "duration_ms": 1200, "succeeded": true, "processed": 3, "failed": 1,
              "failure": null, "error": null },
        ]))
        .unwrap();
        let text = one(&services()[0], &runs, now(), Terminal { width: None, colour: false });
        let expected = format!(
            "\
✖ mail_sender  unhealthy, failed
  why           {ERROR}
  next run      no run until `reset mail_sender`
  last success  5 min ago (2026-01-31T11:55:00Z)
  last run      60 s ago (2026-01-31T11:59:00Z)
  failures      4 in a row (3 are retried), 4 in all
  runs          118
  items         3 processed, 0 failed

  RUN  STARTED    TOOK   RESULT
  118  60 s ago   20 ms  ✖ timeout: no answer
  117  5 min ago  1.2 s  ● 3 processed, 1 failed
"
        );
        assert_eq!(text, expected);
    }
}
