//! Logging in: the page that asks for the token, and the cookie that holds it afterwards.

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use crate::admin::access;
use crate::admin::app::{App, AppState};
use crate::admin::error::{ApiError, ApiResult};
use crate::admin::input::Input;
use crate::admin::pages::layout::{Live, Page, Root};

/// The page that follows a login if none was opened before it.
const FIRST: &str = "ui/services";

/// The body of `POST /login`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    token: String,
    /// The page that follows.
    next: String,
}

/// `GET /login`
pub(crate) async fn login(State(app): AppState, request: Request) -> Response {
    login_page(&app, &Root::of(&request), FIRST, None, StatusCode::OK)
}

/// The answer to a request of a page that needs the token.
pub(crate) fn refused(app: &App, request: &Request) -> Response {
    let opened = request.uri().path_and_query().map_or("", |opened| opened.as_str()).trim_start_matches('/');
    // A form is sent to a path below its page.
    let opened =
        if request.method() == Method::POST { opened.rsplit_once('/').map_or("", |(page, _)| page) } else { opened };
    let message = "Log in to see this page.";
    let mut response = login_page(app, &Root::of(request), next_page(opened), Some(message), StatusCode::UNAUTHORIZED);
    // Where a link of another site leads, a browser does not send the cookie (`SameSite=Strict`). Our own page requests
    // the same address once more, which is not `cross-site` any more.
    let is_from_another_site = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if is_from_another_site && request.method() == Method::GET && app.access.has_a_token() {
        response.headers_mut().insert(header::REFRESH, HeaderValue::from_static("0"));
    }
    response
}

/// Returns the page that follows a login: this one if it is one of ours, as a path relative to that of the login.
fn next_page(wanted: &str) -> &str {
    let path = wanted.split('?').next().unwrap_or_default();
    // No segment is empty, or leads upwards.
    let leads_down =
        path.split('/').all(|segment| !matches!(&*segment.replace("%2e", ".").replace("%2E", "."), "" | "." | ".."));
    let is_plain = wanted.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if wanted.starts_with("ui/") && leads_down && is_plain { wanted } else { FIRST }
}

/// The page that asks for the token.
fn login_page(app: &App, root: &Root, next: &str, message: Option<&str>, status: StatusCode) -> Response {
    let body = html! {
        h1 { "Log in" }
        @if let Some(message) = message { p.message role="alert" { (message) } }
        @if app.access.has_a_token() {
            form method="post" action=(root.link("login")) {
                input type="hidden" name="next" value=(next);
                label for="token" { "Token (" code { "ADMIN_TOKEN" } " of the program)" }
                input #token name="token" type="password" required autocomplete="current-password";
                button type="submit" { "Log in" }
            }
        } @else {
            p { "The program has no token. Start it with the environment variable " code { "ADMIN_TOKEN" } "." }
        }
    };
    Page { app, root, title: "Log in", current: "", live: Live::No, body }.answer(status)
}

/// `POST /login`
pub(crate) async fn log_in(State(app): AppState, request: Request) -> Response {
    let (root, headers) = (Root::of(&request), request.headers().clone());
    let Login { token, next } = match Input::from_request(request, &()).await {
        Ok(Input(login)) => login,
        Err(refused) => return refused.into_response(),
    };
    let next = next_page(&next);
    match cookie(&app, &token, &headers) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response(),
        Err(refused) if is_browser(&headers) => login_page(&app, &root, next, Some(&refused.message), refused.status),
        Err(refused) => refused.into_response(),
    }
}

fn cookie(app: &App, token: &str, headers: &HeaderMap) -> ApiResult<HeaderValue> {
    // As a header is: what is copied from a file may end with a line.
    let token = token.trim();
    if !app.access.is_token(token) {
        let why = "the token is wrong: enter the value of ADMIN_TOKEN of the program";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, why));
    }
    access::login_cookie(token, headers).ok_or_else(|| {
        ApiError::unusable(
            "a cookie cannot contain this token: send it as `Authorization: Bearer …`, or choose another token",
        )
    })
}

/// Whether this is the form of the page, sent by a browser.
fn is_browser(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, text: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(text))
    };
    has(header::ACCEPT, "text/html") && has(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
}
