//! The inputs of handlers: bodies in JSON or as a form, and who asks why.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::{Form, Json};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::admin::error::{ApiError, ApiResult};
use crate::config::parse_duration;
use crate::rfc3339;

/// The longest name of an operator and the longest reason, in characters.
const MAX_NAME: usize = 100;
const MAX_REASON: usize = 1_000;
/// The name of an operator who gave none.
const UNNAMED: &str = "unnamed operator";

/// A body: JSON, a form, or nothing, which is the default.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form = content_type.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let (parts, body) = request.into_parts();
        let read = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
        let body = read.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        let start = body.trim_ascii_start();
        // `curl -d '{"by": "ann"}'` sends JSON as a form. A list would be taken for the fields of a struct in their
        // order.
        match start.first() {
            None => Ok(Self(T::default())),
            Some(b'{') => {
                let json = Json::<T>::from_bytes(&body);
                json.map(|Json(value)| Self(value)).map_err(|error| ApiError::new(error.status(), error.body_text()))
            }
            Some(_) if is_form => {
                let form = Form::<T>::from_request(Request::from_parts(parts, body.into()), state).await;
                form.map(|Form(value)| Self(value)).map_err(|error| ApiError::new(error.status(), error.body_text()))
            }
            Some(_) => Err(ApiError::unusable("the body is not a JSON object")),
        }
    }
}

/// The last `N` parameters of the path. Those before them are of the path below which the interface is mounted. Text
/// that is not UTF-8 is an error in JSON, as all others are.
pub(crate) struct Parameters<const N: usize>(pub(crate) [String; N]);

impl<const N: usize, S: Send + Sync> FromRequestParts<S> for Parameters<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Path(all) = path.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        let own = all.len().saturating_sub(N);
        let values: Vec<String> = all.into_iter().skip(own).map(|(_, value)| value).collect();
        // Each route has as many as its handler takes.
        let values = values.try_into().map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "there is no such page"))?;
        Ok(Self(values))
    }
}

/// The query of the address.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| ApiError::new(error.status(), error.body_text()))
    }
}

/// Who changes something, and why.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Author {
    by: Option<String>,
    why: Option<String>,
}

impl Author {
    pub(crate) fn new(by: Option<String>, why: Option<String>) -> Self {
        Self { by, why }
    }

    /// Returns the name and the reason.
    ///
    /// # Errors
    /// They are too long.
    pub(crate) fn checked(self) -> ApiResult<(String, String)> {
        let by = self.by.as_deref().map(str::trim).filter(|by| !by.is_empty()).unwrap_or(UNNAMED).to_owned();
        let why = self.why.as_deref().map(str::trim).unwrap_or_default().to_owned();
        let is_short = |text: &str, most: usize| text.chars().count() <= most;
        if !is_short(&by, MAX_NAME) {
            return Err(ApiError::unusable(format!("`by` is longer than {MAX_NAME} characters")));
        }
        if !is_short(&why, MAX_REASON) {
            return Err(ApiError::unusable(format!("`why` is longer than {MAX_REASON} characters")));
        }
        Ok((without_controls(by), without_controls(why)))
    }
}

/// A database may refuse a NUL, and a line of a log or of an alert must stay one line.
pub(crate) fn without_controls(text: String) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Parses an expiry: a time, such as `2026-01-31T12:00:00Z`, or a duration from now on, such as `2h`. Its units are
/// those of the configuration.
///
/// # Errors
/// It is neither, or it is over.
pub(crate) fn parse_until(text: &str, now: SystemTime) -> ApiResult<SystemTime> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
    let until = match parse_duration(text) {
        Some(duration) if duration <= LONGEST => now.checked_add(duration),
        Some(_) => None,
        None => rfc3339::parse(text).filter(|until| *until <= now + LONGEST),
    };
    match until {
        Some(until) if until > now => Ok(until),
        Some(_) => Err(ApiError::unusable(format!("`until` is `{text}`, which is over"))),
        None => Err(ApiError::unusable(format!(
            "`until` is `{text}`, expected a time such as `2026-01-31T12:00:00Z`, or a duration from now on such as `2h` (units: ms, s, m, h, d), of at most 10 years"
        ))),
    }
}
