//! [`ApiError`]: an error as an answer: a status and `{"error": "…"}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::runtime::operator_store::NotApplied;
use crate::service::error::Error;

/// An error as an answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The change has been stored all the same, so it belongs in the audit.
    pub(crate) is_stored: bool,
}

/// The result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), is_stored: false }
    }

    pub(crate) fn no_service(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no service `{id}`"))
    }

    /// The state of the service, or of the program, does not allow the command.
    pub(crate) fn conflict(error: Error) -> Self {
        Self::new(StatusCode::CONFLICT, format!("{error:#}"))
    }

    /// The input cannot be used.
    pub(crate) fn unusable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// The database, or the runtime of the services, does not answer.
    pub(crate) fn unavailable(error: Error) -> Self {
        let is_stored = error.find::<NotApplied>().is_some();
        Self { is_stored, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")) }
    }
}

/// Whether a change has been made.
pub(crate) fn is_made<T>(done: &ApiResult<T>) -> bool {
    done.as_ref().map_or_else(|error| error.is_stored, |_| true)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
