//! The probes of an orchestrator: is the process alive, and is it ready?

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::admin::access::Caller;
use crate::admin::app::AppState;
use crate::humanize;
use crate::observe::health::{HealthStatus, ServiceHealth};

/// How long the runtime of the services may take to answer.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// `GET /health/live`. It depends on no database and on no service.
pub(crate) async fn live(State(app): AppState, Extension(caller): Extension<Caller>) -> (StatusCode, Json<Value>) {
    let problem = if let Some(going) = app.registry.inner.overdue_shutdown() {
        Some(format!("a shutdown has been in progress for {}", humanize::long(going)))
    } else {
        let answered = tokio::time::timeout(RUNTIME_TIMEOUT, app.on_home(async {})).await;
        // Without a runtime, the services have never been started, or the process is about to end.
        answered.is_err().then(|| format!("the runtime has not answered for {}", humanize::long(RUNTIME_TIMEOUT)))
    };
    let status = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(json!({ "live": problem.is_none(), "reason": problem.filter(|_| caller.is_trusted) })))
}

/// `GET /health/ready`.
pub(crate) async fn ready(State(app): AppState, Extension(caller): Extension<Caller>) -> (StatusCode, Json<Value>) {
    let session = app.registry.session();
    let health = app.registry.health();
    let is_critical = |service: &&ServiceHealth| {
        let found = app.registry.inner.services.get(&service.service_id);
        found.is_some_and(|service| service.inner.lock().requests.options.critical)
    };
    let failed = health.services.iter().filter(|service| service.status == HealthStatus::Unhealthy).find(is_critical);
    let problem = if !session.is_open() {
        Some("the services are being stopped, or have been stopped".to_owned())
    } else if !session.is_started() {
        Some("the services are still starting".to_owned())
    } else {
        failed.map(|service| format!("the critical service `{}` is unhealthy", service.service_id))
    };
    let show = |service: &ServiceHealth| {
        let mut shown = json!({
            "service_id": service.service_id, "state": service.state, "status": service.status,
        });
        if caller.is_trusted {
            shown["reason"] = json!(service.reason);
        }
        shown
    };
    let services: Vec<Value> = health.services.iter().map(show).collect();
    let status = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "ready": problem.is_none(),
        "reason": problem.filter(|_| caller.is_trusted),
        "status": health.status,
        "services": services,
    });
    (status, Json(body))
}
