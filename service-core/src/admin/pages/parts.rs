//! Parts that several pages have: states, times, runs as a strip, who and why.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use crate::admin::api::Run;
use crate::admin::app::AuditRead;
use crate::humanize;
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::rfc3339;
use crate::service::state::ServiceState;

/// How many runs a strip has.
pub(super) const STRIP: usize = 24;
/// The width of a run in a strip, and the height of the strip.
const STEP: usize = 4;
const HEIGHT: f64 = 20.0;

/// A health status: a sign, so that no colour is needed, and the word.
pub(super) fn status(status: HealthStatus) -> Markup {
    html! { span class={ "status " (status) } { span aria-hidden="true" { (status.sign()) } " " (status) } }
}

/// A time, as its distance from now.
pub(super) fn time(at: Option<SystemTime>, now: SystemTime) -> Markup {
    let Some(at) = at else { return html! { "–" } };
    let exact = rfc3339::seconds(at).to_string();
    html! { time datetime=(exact) title=(exact) { (humanize::relative(at, now)) } }
}

/// When the next run is due, or what it needs.
pub(super) fn next_run(health: &ServiceHealth, now: SystemTime) -> Markup {
    match health.state {
        ServiceState::Failed => html! { "none until a reset" },
        ServiceState::Created | ServiceState::Stopped => html! { "none until a start" },
        ServiceState::Paused => html! { "none until a resume" },
        ServiceState::Standby => html! { "on another replica" },
        _ => time(health.next_run, now),
    }
}

pub(super) fn duration(milliseconds: f64) -> String {
    humanize::long(Duration::try_from_secs_f64(milliseconds / 1_000.0).unwrap_or_default())
}

/// The last runs as bars, the newest at the right. A bar is as high as its run was long; a failed run is a full bar
/// with a gap.
pub(super) fn strip(runs: &[Run], state: ServiceState) -> Markup {
    let runs: Vec<&Run> = runs.iter().take(STRIP).collect();
    if runs.is_empty() {
        let is_standby = state == ServiceState::Standby;
        return html! { span.none { @if is_standby { "no run on this replica" } @else { "no run has ended yet" } } };
    }
    let failed = runs.iter().filter(|run| !run.succeeded).count();
    let longest = runs.iter().map(|run| run.duration_ms).fold(1.0, f64::max);
    let (mut good, mut bad) = (String::new(), String::new());
    for (place, run) in runs.iter().rev().enumerate() {
        let x = (STRIP - runs.len() + place) * STEP + STEP / 2;
        // Writing to a string cannot fail.
        let _ = match run.succeeded {
            true => write!(
                good,
                "M{x} {HEIGHT}v-{:.1}",
                3.0 + (HEIGHT - 3.0) * (1.0 + run.duration_ms).ln() / (1.0 + longest).ln()
            ),
            false => write!(bad, "M{x} {HEIGHT}v-7M{x} 10v-10"),
        };
    }
    let slowest = duration(longest);
    let text = match failed {
        0 => format!("the last {} runs succeeded, the longest took {slowest}", runs.len()),
        _ => format!("{failed} of the last {} runs failed", runs.len()),
    };
    let view = format!("0 0 {} {HEIGHT}", STRIP * STEP);
    html! {
        svg.strip viewBox=(view) preserveAspectRatio="xMinYMid" role="img" aria-label=(text) {
            title { (text) }
            path.good d=(good) {}
            path.bad d=(bad) {}
        }
    }
}

/// The fields for who changes something, and why.
pub(super) fn author(form: &str) -> Markup {
    html! {
        div.field {
            label for={ (form) "-by" } { "Your name" }
            input id={ (form) "-by" } name="by" required maxlength="100" autocomplete="name" data-remember="by";
        }
        div.field.wide {
            label for={ (form) "-why" } { "Reason" }
            input id={ (form) "-why" } name="why" required maxlength="1000" autocomplete="off";
        }
    }
}

/// A table, which scrolls by itself where the page is narrow.
pub(super) fn data_table(label: &str, headings: &[&str], rows: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { @for heading in headings { th { (heading) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// Entries of the audit, as a table, and what is missing in it.
pub(super) fn audit_table(read: &AuditRead, now: SystemTime) -> Markup {
    let entries = &read.entries;
    html! {
        @if let Some(why) = &read.missing {
            p.message.refused { "Only the entries in memory, as those of the database could not be read: " (why.message) }
        }
        (data_table("Audit", &["When", "Who", "What", "Why"], html! {
            @for entry in entries {
                tr {
                    td { (time(Some(entry.at), now)) }
                    td { (entry.by) }
                    td { (entry.action) " " b { (entry.subject) } @if !entry.detail.is_empty() { " " code { (entry.detail) } } }
                    td { (entry.why) }
                }
            }
        }))
    }
}
