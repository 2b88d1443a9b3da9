//! The routes, each with its handler.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post, put};

use crate::admin::app::SharedApp;
use crate::admin::error::ApiError;
use crate::admin::{api, commands, guard, health, metrics, openapi, overrides, pages, replicas, work};

/// Returns all routes.
pub(crate) fn router(app: SharedApp) -> Router {
    Router::new()
        .route("/", get(pages::services))
        .route("/ui/services", get(pages::services))
        .route("/login", get(pages::login).post(pages::log_in))
        .route("/ui/services/{id}", get(pages::service))
        .route("/ui/services/{id}/commands", post(pages::command))
        .route("/ui/services/{id}/overrides", post(pages::change_override))
        .route("/ui/work", get(pages::work))
        .route("/ui/work/{table}", get(pages::failed_rows))
        .route("/ui/work/{table}/retry", post(pages::retry))
        .route("/ui/replicas", get(pages::replicas))
        .route("/ui/audit", get(pages::audit))
        .route("/assets/{name}", get(pages::asset))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/services", get(api::services))
        .route("/services/{id}", get(api::service))
        .route("/services/{id}/runs", get(api::runs))
        .route("/services/{id}/explain", get(api::explain))
        .route("/services/{id}/overrides", get(overrides::overrides))
        .route("/services/{id}/overrides/{key}", put(overrides::put_override).delete(overrides::delete_override))
        .route("/services/{id}/{action}", post(commands::command))
        .route("/work", get(work::tables))
        .route("/work/{table}/failed", get(work::failed))
        .route("/work/{table}/retry", post(work::retry))
        .route("/audit", get(api::audit))
        .route("/replicas", get(replicas::replicas))
        .route("/events", get(api::events))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is no such page"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this page has no such method")
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}
