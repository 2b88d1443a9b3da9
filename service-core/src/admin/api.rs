//! What can be read of services: health, runs, explanation, audit, events.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::WARNING;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_core::Stream;
use futures_util::{StreamExt, future, stream};
use serde::{Deserialize, Serialize};

use crate::admin::app::{App, AppState};
use crate::admin::error::ApiResult;
use crate::admin::events::EventsQuery;
use crate::admin::input::{Asked, Parameters};
use crate::observe::explain::Explanation;
use crate::observe::health::ServiceHealth;
use crate::rfc3339;
use crate::runtime::operator_store::{AuditEntry, AuditPage};
use crate::runtime::run_history::{RunRecord, RunResult};
use crate::service::failure::FailureKind;

/// The most entries of the audit in one answer.
const MAX_AUDIT: u32 = 1_000;
const DEFAULT_AUDIT: u32 = 100;
/// The header of an audit without the entries of the database.
const IN_MEMORY_ONLY: &str = "199 - \"only the entries in memory, as those of the database could not be read\"";
/// How long a browser waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(500);
const RECONNECT_AFTER_SHUTDOWN: Duration = Duration::from_secs(5);
/// How often a comment keeps a stream of events open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a stream of events of a mounted interface lasts at most. Browsers connect again by themselves.
const MOUNTED_STREAM: Duration = Duration::from_secs(10);
/// nginx, and proxies that know its header, pass on each event at once, not when a buffer is full.
const UNBUFFERED: [(HeaderName, &str); 1] = [(HeaderName::from_static("x-accel-buffering"), "no")];

/// A run that has ended, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// The number of the run, from 1.
    pub(crate) run: u64,
    #[serde(serialize_with = "rfc3339::serialize")]
    pub(crate) started_at: SystemTime,
    pub(crate) duration_ms: f64,
    pub(crate) succeeded: bool,
    pub(crate) processed: u64,
    pub(crate) failed: u64,
    /// Why the run failed, if it failed.
    pub(crate) failure: Option<FailureKind>,
    pub(crate) error: Option<String>,
}

/// `GET /services`
pub(crate) async fn services(State(app): AppState) -> Json<Vec<ServiceHealth>> {
    Json(app.registry.health().services)
}

/// `GET /services/{id}`
pub(crate) async fn service(State(app): AppState, Parameters([id]): Parameters<1>) -> ApiResult<Json<ServiceHealth>> {
    Ok(Json(app.service(&id)?.health()))
}

/// `GET /services/{id}/explain`
pub(crate) async fn explain(State(app): AppState, Parameters([id]): Parameters<1>) -> ApiResult<Json<Explanation>> {
    Ok(Json(app.service(&id)?.explain()))
}

/// `GET /services/{id}/runs`
pub(crate) async fn runs(State(app): AppState, Parameters([id]): Parameters<1>) -> ApiResult<Json<Vec<Run>>> {
    app.service(&id)?;
    Ok(Json(last_runs(&app, &id)))
}

/// Returns the last runs of a service, the newest first.
pub(crate) fn last_runs(app: &App, id: &str) -> Vec<Run> {
    let Some(service) = app.registry.inner.services.get(id) else { return Vec::new() };
    let records: Vec<RunRecord> = {
        let state = service.inner.lock();
        state.history.iter().flat_map(|history| history.newest_first().cloned()).collect()
    };
    let clock = &service.inner.shared.clock;
    let show = |record: RunRecord| {
        let (succeeded, processed, failed, failure, error) = match record.result {
            RunResult::Succeeded { processed, failed } => (true, processed, failed, None, None),
            RunResult::Failed(run) => (false, run.processed, run.failed, Some(run.kind), Some(run.error.clone())),
        };
        Run {
            run: record.run,
            started_at: clock.wall(record.started),
            duration_ms: record.nanos as f64 / 1e6,
            succeeded,
            processed,
            failed,
            failure,
            error,
        }
    };
    records.into_iter().map(show).collect()
}

/// The query of `GET /audit`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuditQuery {
    subject: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

impl AuditQuery {
    pub(crate) fn page(self) -> AuditPage {
        let limit = self.limit.unwrap_or(DEFAULT_AUDIT).min(MAX_AUDIT);
        // PostgreSQL refuses a NUL in a text.
        let given = |text: Option<String>| text.map(|text| text.replace('\0', "")).filter(|text| !text.is_empty());
        AuditPage { subject: given(self.subject), before: given(self.before), limit }
    }
}

/// `GET /audit`
pub(crate) async fn audit(
    State(app): AppState,
    Asked(query): Asked<AuditQuery>,
) -> ApiResult<(Option<[(HeaderName, &'static str); 1]>, Json<Vec<AuditEntry>>)> {
    let read = app.audit(query.page()).await?;
    let warning = read.missing.map(|_| [(WARNING, IN_MEMORY_ONLY)]);
    Ok((warning, Json(read.entries)))
}

/// `GET /events`
pub(crate) async fn events(
    State(app): AppState,
    Asked(query): Asked<EventsQuery>,
) -> ([(HeaderName, &'static str); 1], Sse<impl Stream<Item = Result<Event, Infallible>>>) {
    let (session, is_mounted) = (app.registry.session(), app.access.is_mounted());
    // A mounted interface may outlive the services: its streams end at once then.
    let reconnect = if is_mounted && !session.is_open() { RECONNECT_AFTER_SHUTDOWN } else { RECONNECT };
    let end = async move {
        if !is_mounted {
            return std::future::pending().await;
        }
        // The application's own server waits for the end of all answers before it stops, and may stop before the
        // services.
        let _ = tokio::time::timeout(MOUNTED_STREAM, session.closing()).await;
    };
    let hello = Event::default().comment("events from now on").retry(reconnect);
    let stream = app.core.events.clone().read(app.registry.clone(), query).take_until(Box::pin(end));
    let stream = stream::once(future::ready(hello)).chain(stream);
    (UNBUFFERED, Sse::new(stream.map(Ok)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
