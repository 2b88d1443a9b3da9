//! The middleware in front of every route: refuses requests, reads bodies within limits, and adds the headers that
//! protect pages.

use std::time::Duration;

use axum::RequestExt;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::admin::access::{self, Caller};
use crate::admin::app::SharedApp;
use crate::admin::error::ApiError;
use crate::admin::pages;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Refuses a request, or passes it on with its whole body.
pub(crate) async fn guard(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    let refusal = app.access.refusal(&request);
    let mut response = match refusal {
        Some(refusal) if refusal.status == StatusCode::UNAUTHORIZED && access::is_page(uri.path()) => {
            pages::refused(&app, &request)
        }
        Some(refusal) => refusal.into_response(),
        None => {
            let is_trusted = app.access.is_trusted(&headers);
            request.extensions_mut().insert(Caller { is_trusted });
            match with_whole_body(request).await {
                Ok(request) => next.run(request).await,
                Err(refusal) => refusal.into_response(),
            }
        }
    };
    protect(response.headers_mut());
    response
}

/// Reads the body, so that a slow or large one never reaches a handler.
async fn with_whole_body(mut request: Request) -> Result<Request, ApiError> {
    let body = std::mem::take(request.body_mut());
    let mut limited = Request::new(body);
    DefaultBodyLimit::max(MAX_BODY).apply(&mut limited);
    let read = Bytes::from_request(limited.with_limited_body(), &());
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => {
            *request.body_mut() = Body::from(bytes);
            Ok(request)
        }
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB"))
        }
        Ok(Err(rejection)) => Err(ApiError::new(StatusCode::BAD_REQUEST, rejection.body_text())),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s")),
    }
}

/// Adds the headers by which a browser protects pages.
fn protect(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                          form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
