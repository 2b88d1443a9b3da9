//! The page of all services, the worst first.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::api::last_runs;
use crate::admin::app::{App, AppState};
use crate::admin::input::Asked;
use crate::admin::pages::layout::{Live, Page, Root};
use crate::admin::pages::parts::{duration, next_run, status, strip, time};
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::observe::startup_table;
use crate::runtime::labels;
use crate::service::state::ServiceState;

/// How many rows a part of the page has at most: as many as the script requests at once.
const MOST_ROWS: usize = 100;

/// The query of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    /// Only services whose row has this text. Without JavaScript, the search is a form.
    q: String,
    /// Only the rows of these services, separated by commas, as a part of a page.
    rows: Option<String>,
}

/// `GET /` and `GET /ui/services`
pub(crate) async fn services(State(app): AppState, Asked(query): Asked<Query>, request: Request) -> Response {
    let root = Root::of(&request);
    let now = app.now();
    if let Some(ids) = &query.rows {
        let ids: BTreeSet<&str> = ids.split(',').collect();
        let services = ids.into_iter().take(MOST_ROWS).filter_map(|id| app.registry.get(id));
        let health = services.map(|service| service.health());
        let rows = html! { @for health in health { (row(&app, &health, now, &root)) } };
        return Html(rows.into_string()).into_response();
    }
    let mut services = app.registry.health().services;
    services.sort_by_key(|service| Reverse(service.status));
    let count = |status: HealthStatus| services.iter().filter(|service| service.status == status).count();
    let counts = HealthStatus::ALL.map(|status| (status, count(status)));
    let wanted = query.q.trim().to_lowercase();
    let matches = |service: &&ServiceHealth| {
        let reason = service.reason.as_deref().unwrap_or_default();
        let text = [
            &service.service_id,
            reason,
            &service.status.to_string(),
            service.state.as_str(),
            &labels::text(&service.labels),
        ];
        wanted.is_empty() || text.iter().any(|text| text.to_lowercase().contains(&wanted))
    };
    let found: Vec<&ServiceHealth> = services.iter().filter(matches).collect();
    let body = html! {
        h1 { "Services" }
        p #summary.summary {
            @for (of, count) in counts.into_iter().rev() { span.count { b { (count) } " " (status(of)) } " " }
        }
        form.search role="search" method="get" action=(root.link("ui/services")) {
            label for="search" { "Search" }
            input #search name="q" type="search" value=(query.q) placeholder="id, state, reason, label" autocomplete="off";
            button type="submit" { "Search" }
        }
        p #none hidden[!found.is_empty()] { "No service matches." }
        ul #rows.rows aria-label="Services, the worst first" { @for health in found { (row(&app, health, now, &root)) } }
    };
    let live = Live::Events("");
    Page { app: &app, root: &root, title: "Services", current: "services", live, body }.answer(StatusCode::OK)
}

/// One service: what it is, why it is not healthy, and what it does next.
fn row(app: &App, health: &ServiceHealth, now: SystemTime, root: &Root) -> Markup {
    let id = &health.service_id;
    let options = app.registry.inner.services.get(id).map(|service| service.inner.lock().requests.options.clone());
    let schedule = options.map(|options| startup_table::schedule(&options.schedule)).unwrap_or_default();
    let rank = match health.status {
        HealthStatus::Unhealthy => 0,
        HealthStatus::Degraded => 1,
        HealthStatus::Healthy => 2,
    };
    html! {
        li class={ "row " (health.status) } data-state=(health.state.as_str()) id={ "service-" (id) } data-rank=(rank) data-id=(id) {
            div.what {
                a.id href=(root.link(&format!("ui/services/{id}"))) { (id) }
                " " (status(health.status))
                @if health.state == ServiceState::Standby { " " a.state href=(root.link("ui/replicas")) { "standby" } }
                @else if health.state != ServiceState::Running { " " span.state { (health.state.in_words()) } }
                @if !health.labels.is_empty() { " " span.labels { (labels::text(&health.labels)) } }
                @if let Some(reason) = &health.reason { p.reason { (reason) } }
            }
            div.runs { (strip(&last_runs(app, id), health.state)) }
            dl.times {
                div { dt { "schedule" } dd { (schedule) } }
                div {
                    dt { "last run" }
                    dd {
                        (time(health.last_run, now))
                        @if let Some(took) = health.last_run_duration_ms { ", " (duration(took as f64)) }
                    }
                }
                div { dt { "last success" } dd { (time(health.last_success, now)) } }
                div { dt { "next run" } dd { (next_run(health, now)) } }
            }
        }
    }
}
