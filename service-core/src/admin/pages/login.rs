//! Logging in: the page that asks for the token, and the cookie that holds it afterwards.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use crate::admin::access;
use crate::admin::app::{App, AppState};
use crate::admin::error::ApiError;
use crate::admin::input::Input;
use crate::admin::pages::layout::{Live, Page, Root};

/// The body of `POST /login`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Login {
    token: String,
}

/// `GET /login`
pub(crate) async fn login(State(app): AppState, request: Request) -> Response {
    login_page(&app, &request, None, StatusCode::OK)
}

/// The page that asks for the token.
pub(crate) fn login_page(app: &App, request: &Request, message: Option<&str>, status: StatusCode) -> Response {
    let root = Root::of(request);
    let body = html! {
        h1 { "Log in" }
        @if let Some(message) = message { p.message role="alert" { (message) } }
        @if app.access.has_a_token() {
            form method="post" action=(root.link("login")) {
                label for="token" { "Token (" code { "ADMIN_TOKEN" } " of the program)" }
                input #token name="token" type="password" required autocomplete="current-password";
                button type="submit" { "Log in" }
            }
        } @else {
            p { "The program has no token. Start it with the environment variable " code { "ADMIN_TOKEN" } "." }
        }
    };
    Page { app, root: &root, title: "Log in", current: "", live: Live::No, body }.answer(status)
}

/// `POST /login`
pub(crate) async fn log_in(State(app): AppState, headers: HeaderMap, Input(login): Input<Login>) -> Response {
    // As a header is: what is copied from a file may end with a line.
    let token = login.token.trim();
    if !app.access.is_token(token) {
        return ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the token is wrong: enter the value of ADMIN_TOKEN of the program",
        )
        .into_response();
    }
    let Some(cookie) = access::login_cookie(token, &headers) else {
        return ApiError::unusable(
            "a cookie cannot contain this token: send it as `Authorization: Bearer …`, or choose another token",
        )
        .into_response();
    };
    ([(header::SET_COOKIE, cookie)], Redirect::to("ui/services")).into_response()
}
