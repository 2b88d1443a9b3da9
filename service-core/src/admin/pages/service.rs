//! The page of one service: what it does and why, its runs, its options and overrides, and its commands.

use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future;
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::api::{Run, last_runs};
use crate::admin::app::{App, AppState, SharedApp};
use crate::admin::commands::Command;
use crate::admin::error::ApiError;
use crate::admin::input::{Asked, Parameters};
use crate::admin::overrides::read_overrides;
use crate::admin::pages::layout::{Live, Page, Root};
use crate::admin::pages::parts::{audit_table, author, data_table, duration, next_run, status, strip, time};
use crate::admin::pages::replicas::{name, renewed, sign, without_database};
use crate::admin::replicas::{Liveness, Replicas};
use crate::config::Layer;
use crate::humanize::whole;
use crate::observe::explain::{ExplainedOption, Explanation};
use crate::observe::health::ServiceHealth;
use crate::registry::handle::ServiceHandle;
use crate::runtime::labels;
use crate::runtime::operator_store::{AuditPage, StoredOverride};
use crate::schedule::Schedule;
use crate::service::failure::FailureKind;
use crate::service::state::ServiceState;

/// How many entries of the audit the page has.
const AUDIT: u32 = 10;

/// What `done` is after an override was set.
pub(super) const OVERRIDDEN: &str = "override";
/// What `done` is after an override was removed.
pub(super) const REMOVED: &str = "override-removed";
/// What `done` is after a run was requested that has not ended in time.
pub(super) const REQUESTED: &str = "run-requested";

/// The query of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    /// The command that has been carried out.
    done: String,
}

/// `GET /ui/services/{id}`
pub(crate) async fn service(
    State(app): AppState,
    Parameters([id]): Parameters<1>,
    Asked(query): Asked<Query>,
    request: Request,
) -> Response {
    let done = match query.done.as_str() {
        OVERRIDDEN => Some("override"),
        REMOVED => Some("the override is removed"),
        REQUESTED => Some("the run is requested, and has not ended yet"),
        command => Command::parse(command).map(Command::name),
    };
    page(&app, &id, &Root::of(&request), done.map(Message::Done)).await
}

/// What a command has done, as the page says it.
#[derive(Clone, Copy)]
pub(super) enum Message<'a> {
    Done(&'a str),
    RunFailed(&'a str),
    Refused(&'a ApiError),
}

impl Message<'_> {
    pub(super) fn show(self) -> Markup {
        match self {
            Self::Done(what) => html! { p.message.done role="status" { "Done: " (what) "." } },
            Self::RunFailed(error) => html! { p.message.refused role="alert" { "The run failed: " (error) } },
            Self::Refused(refused) => html! { p.message.refused role="alert" { (refused.message) } },
        }
    }
}

/// The page, with what a command has done.
pub(super) async fn page(app: &SharedApp, id: &str, root: &Root, message: Option<Message<'_>>) -> Response {
    let Some(handle) = app.registry.get(id) else {
        let missing = ApiError::no_service(id);
        let body = html! { h1 { "Not found" } p { (missing.message) "." } p { a href=(root.link("ui/services")) { "All services" } } };
        return Page { app, root, title: "Not found", current: "services", live: Live::No, body }
            .answer(missing.status);
    };
    let (health, explanation) = (handle.health(), handle.explain());
    let failures_in_a_row = handle.service.inner.lock().status.since_success;
    let now = app.now();
    let runs = last_runs(app, id);
    let page = AuditPage { subject: Some(id.to_owned()), before: None, limit: AUDIT };
    let replicas = async {
        let leases = app.leases().filter(|_| handle.service.inner.lease.is_some())?;
        Some(Replicas::read(app, &leases, Some(id)).await)
    };
    // At the same time, so that a database that does not answer is waited for once.
    let (overrides, audit, replicas) = future::join3(read_overrides(app, id), app.audit(page), replicas).await;
    let body = html! {
        @if let Some(message) = message { (message.show()) }
        h1 { (id) }
        section #now data-part="now" { (head(&health, failures_in_a_row, &explanation, now)) }
        @if let Some(replicas) = &replicas { section #replicas data-part="replicas" { (on_replicas(replicas, now, root)) } }
        section aria-labelledby="commands" {
            h2 #commands { "Commands" }
            (commands(&handle, &health, replicas.as_ref(), root))
        }
        section #runs data-part="runs" { (run_table(&runs, health.state, now)) }
        section aria-labelledby="overrides" {
            h2 #overrides { "Overrides" }
            (override_forms(app, id, &explanation, &overrides, now, root))
        }
        section #options data-part="options" { (options(&explanation, now)) }
        section #audit data-part="audit" {
            h2 { "Who changed what" }
            @match &audit {
                Ok(read) if read.entries.is_empty() => p { "Nothing is recorded." },
                Ok(read) => { (audit_table(read, now)) p { a href=(root.link("ui/audit")) { "The whole audit" } } }
                Err(error) => p.message.refused { (error.message) },
            }
        }
    };
    let status = if let Some(Message::Refused(refused)) = message { refused.status } else { StatusCode::OK };
    Page { app, root, title: id, current: "services", live: Live::Events(id), body }.answer(status).into_response()
}

/// What a person who was woken up needs first.
fn head(health: &ServiceHealth, failures: u32, explanation: &Explanation, now: SystemTime) -> Markup {
    // Those that were ignored, or came from an outage, do not count.
    let counted =
        if failures == health.failures { String::new() } else { format!("; {} of them count", health.failures) };
    let retried =
        health.max_failures.map_or_else(|| "any number is retried".to_owned(), |most| format!("{most} are retried"));
    let is_new = |reason: &&String| !explanation.now.starts_with(reason.as_str());
    html! {
        p.lead { (status(health.status)) " " span.state { (health.state.in_words()) } }
        p.reason { (explanation.now) }
        @if let Some(reason) = health.reason.as_ref().filter(is_new) { p.reason { (reason) } }
        dl.facts {
            div { dt { "Schedule" } dd { (explanation.schedule) } }
            div { dt { "Next run" } dd { (next_run(health, now)) } }
            div {
                dt { "Last run" }
                dd { (time(health.last_run, now)) @if let Some(took) = health.last_run_duration_ms { ", took " (duration(took as f64)) } }
            }
            div { dt { "Last success" } dd { (time(health.last_success, now)) } }
            div { dt { "Failures in a row" } dd { (failures) (counted) ", " (retried) } }
            div { dt { "Runs" } dd { (health.runs) ", " (health.error_count) " failures" } }
            div { dt { "Items" } dd { (health.total_processed) ", " (health.total_failed) " failed" } }
            div { dt { "Restarts" } dd { (health.restarts) } }
            @if !health.labels.is_empty() { div { dt { "Labels" } dd { (labels::text(&health.labels)) } } }
            @if let Some(parent) = &explanation.parent { div { dt { "Parent" } dd { (parent) } } }
            @for (name, value) in &health.metrics { div { dt { (name) } dd { (value) } } }
        }
        @if let Some(error) = &health.last_error {
            details open[health.failures > 0 || health.state == ServiceState::Failed] {
                summary { "Latest error" }
                pre tabindex="0" { (error) }
            }
        }
    }
}

/// The service on all replicas: which of them runs it, and what it is on the others.
fn on_replicas(replicas: &Replicas, now: SystemTime, root: &Root) -> Markup {
    html! {
        h2 { "Replicas" }
        @if let Some(problem) = &replicas.problem { (without_database(&replicas.this, problem)) }
        @for service in &replicas.services {
            p {
                (status(service.status)) " "
                @match &service.holder {
                    Some(holder) => { "runs on " b { (name(&holder.label, holder.is_this)) } ", epoch " (holder.epoch) @if holder.renewed.is_some() { ", renewed " (renewed(holder, now)) } }
                    None => "runs on no replica",
                }
            }
            @for reason in &service.reasons { p.reason { (reason) } }
            @let there = replicas.replicas.iter().filter(|(liveness, _)| *liveness != Liveness::Gone);
            @let there: Vec<_> = there.filter_map(|(liveness, replica)| Some((*liveness, replica, replica.service(&service.id)?))).collect();
            @if !there.is_empty() {
                (data_table("The service on each replica", &["Replica", "Heartbeat", "Service there", "Why"], html! {
                    @for (liveness, replica, there) in there {
                        tr {
                            td { (name(&replica.label(), replica.is_this)) }
                            td { (sign(liveness)) " " (time(now.checked_sub(whole(replica.seen())), now)) }
                            td { (status(there.status)) " " (there.state.in_words()) }
                            td { (there.reason.as_deref().unwrap_or("–")) }
                        }
                    }
                }))
            }
        }
        p { a href=(root.link("ui/replicas")) { "All replicas" } }
    }
}

/// The commands that the state of the service allows.
fn commands(handle: &ServiceHandle, health: &ServiceHealth, replicas: Option<&Replicas>, root: &Root) -> Markup {
    let (is_long, is_on_demand) = {
        let options = &handle.service.inner.lock().requests.options;
        (options.long_run().is_some(), options.schedule == Schedule::OnDemand)
    };
    let has_failed = health.state == ServiceState::Failed || replicas.is_some_and(|all| all.has_failed(handle.id()));
    let has_next = handle.service.factory.has_next();
    let allowed = |command: &Command| match (command, health.state) {
        (Command::Start, ServiceState::Created | ServiceState::Stopped) => true,
        (Command::Reset, _) => has_failed && has_next,
        (Command::Stop, state) => state.is_running() && state != ServiceState::Draining,
        (Command::Pause, state) => state.is_running() && state != ServiceState::Draining && !health.paused,
        (Command::Resume, state) => state.is_running() && health.paused,
        (
            Command::Run,
            ServiceState::Running | ServiceState::Paused | ServiceState::BackingOff | ServiceState::Standby,
        ) => !is_long,
        (Command::Wake, ServiceState::Running) => !is_long && health.next_run.is_none(),
        (Command::Wake, ServiceState::Standby) => is_on_demand,
        _ => false,
    };
    let is_clustered = replicas.is_some();
    let text = |command: Command| match command {
        Command::Start if is_clustered => "Start on this replica",
        Command::Stop if is_clustered => "Stop on this replica",
        Command::Pause if is_clustered => "Pause on all replicas",
        Command::Resume if is_clustered => "Resume on all replicas",
        Command::Start => "Start",
        Command::Stop => "Stop",
        Command::Pause => "Pause",
        Command::Resume => "Resume",
        Command::Run => "Run now",
        Command::Wake => "Wake",
        Command::Reset => "Reset",
    };
    // An open page shows and hides them. Those that come and go while a service works stand last: a button must not move
    // to where another one was.
    let buttons =
        [Command::Reset, Command::Resume, Command::Pause, Command::Start, Command::Stop, Command::Run, Command::Wake];
    html! {
        form.act method="post" action=(root.link(&format!("ui/services/{}/commands", handle.id()))) {
            // What the Enter key in a field presses: without this button, the first command.
            button type="submit" disabled hidden {}
            (author("command"))
            div.buttons data-part="buttons" #buttons {
                @for command in buttons.into_iter().filter(allowed) {
                    button type="submit" name="command" value=(command.name()) { (text(command)) }
                }
            }
            @if is_clustered {
                p.small {
                    "Run now and Wake act on the replica that runs the service. Reset acts on every replica on which the service has failed. "
                    "If this replica runs the service, a stop moves it to another one."
                }
            }
        }
    }
}

fn run_table(runs: &[Run], state: ServiceState, now: SystemTime) -> Markup {
    html! {
        h2 { "Recent runs" }
        (strip(runs, state))
        @if !runs.is_empty() {
            (data_table("Recent runs", &["Run", "Began", "Took", "Result", "Items"], html! {
                @for run in runs {
                    tr class=[(!run.succeeded).then_some("failed")] {
                        td { (run.run) }
                        td { (time(Some(run.started_at), now)) }
                        td { (duration(run.duration_ms)) }
                        td {
                            @match &run.error {
                                Some(error) => { details { summary { "✖ failed" @match run.failure { Some(FailureKind::Panic) => " (panic)", Some(FailureKind::Timeout) => " (timeout)", _ => "" } } pre { (error) } } }
                                None => "succeeded",
                            }
                        }
                        td { (run.processed) @if run.failed > 0 { ", " (run.failed) " failed" } }
                    }
                }
            }))
        }
    }
}

fn override_forms(
    app: &App,
    id: &str,
    explanation: &Explanation,
    overrides: &Result<Vec<StoredOverride>, ApiError>,
    now: SystemTime,
    root: &Root,
) -> Markup {
    if app.store().is_none() {
        return html! { p { "Overrides need a database, and this program has none." } };
    }
    let action = root.link(&format!("ui/services/{id}/overrides"));
    html! {
        div #overridden data-part="overridden" {
            @match overrides {
                Err(error) => p.message.refused { (error.message) },
                Ok(overrides) => @for (n, one) in overrides.iter().enumerate() {
                    form.act method="post" action=(action) {
                        p {
                            code { (one.key) " = " (one.value) } " by " b { (one.by) } ", " (time(Some(one.at), now))
                            @if one.until.is_some() { ", ends " (time(one.until, now)) }
                            @if !one.why.is_empty() { ": " (one.why) }
                        }
                        input type="hidden" name="key" value=(one.key);
                        (author(&format!("remove-{n}")))
                        div.buttons { button type="submit" name="remove" value="yes" { "Remove this override" } }
                    }
                }
            }
        }
        form.act method="post" action=(action) {
            div.field {
                label for="override-key" { "Option or setting" }
                input #override-key name="key" required list="option-keys" value="interval" autocomplete="off";
                datalist #option-keys { @for option in &explanation.options { option value=(option.key) {} } }
            }
            div.field {
                label for="override-value" { "Value" }
                input #override-value name="value" required placeholder="30, 5m, true" autocomplete="off";
            }
            div.field {
                label for="override-until" { "For how long" }
                select #override-until name="until" {
                    @for (value, text) in [("15m", "15 minutes"), ("1h", "1 hour"), ("4h", "4 hours"), ("1d", "1 day"), ("7d", "7 days"), ("", "until it is removed")] {
                        option value=(value) selected[value == "4h"] { (text) }
                    }
                }
            }
            (author("override"))
            div.buttons { button type="submit" { "Override" } }
        }
    }
}

fn options(explanation: &Explanation, now: SystemTime) -> Markup {
    let set = |option: &&ExplainedOption| option.layer != Layer::Default || !option.hides.is_empty();
    html! {
        h2 { "Options and settings" }
        @if !explanation.next_runs.is_empty() {
            p { "Next runs: " @for (n, at) in explanation.next_runs.iter().enumerate() { @if n > 0 { ", " } (time(Some(*at), now)) } }
        }
        (data_table("Options", &["Option", "Value", "From"], html! {
            @for option in explanation.options.iter().filter(set) {
                tr {
                    td { code { (option.key) } }
                    td { (option.value) }
                    td { (option.place) @for hidden in &option.hides { ", instead of " (hidden.value) " (" (hidden.place) ")" } }
                }
            }
            @for setting in &explanation.settings { tr { td { code { (setting.key) } } td { "(not shown)" } td { (setting.place) } } }
        }))
        @for rejected in &explanation.rejected { p.message.refused { "Ignored: " (rejected) } }
        p.small { (explanation.type_name) ", registered at " (explanation.place) ", acts as " (explanation.requester_id) }
    }
}
