//! What all pages have in common: the frame, the links, the embedded files.

use std::time::SystemTime;

use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::admin::app::App;
use crate::admin::error::ApiError;
use crate::admin::input::Parameters;

const STYLE: &str = include_str!("../assets/admin.css");
const SCRIPT: &str = include_str!("../assets/admin.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// The way from a page to the root of the interface: `../../`.
#[derive(Clone, Debug)]
pub(crate) struct Root(String);

impl Root {
    /// `inner` is the path below the root, `original` the one that the browser has.
    fn new(inner: &str, original: &str) -> Self {
        if inner == "/" && !original.ends_with('/') {
            // Mounted at `/admin`, and asked for without a slash: links are relative to `/`.
            let last = original.rsplit('/').next().unwrap_or_default();
            return Self(format!("{last}/"));
        }
        let depth = inner.matches('/').count().saturating_sub(1);
        Self(if depth == 0 { "./".to_owned() } else { "../".repeat(depth) })
    }

    pub(crate) fn of(request: &Request) -> Self {
        let original = request.extensions().get::<OriginalUri>().map_or(request.uri(), |original| &original.0);
        Self::new(request.uri().path(), original.path())
    }

    /// Returns the link to a path below the root.
    pub(crate) fn link(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

/// How a page that is open stays current, with JavaScript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live<'a> {
    /// It does not.
    No,
    /// By the events of the service with this id; empty: of all.
    Events(&'a str),
    /// It is read again every few seconds: what other replicas do is no event of this one.
    Periodic,
}

/// How often a page is read again, in seconds.
const PERIOD: &str = "5";

/// A page.
pub(crate) struct Page<'a> {
    pub(crate) app: &'a App,
    pub(crate) root: &'a Root,
    pub(crate) title: &'a str,
    /// The entry of the navigation that is this page.
    pub(crate) current: &'a str,
    pub(crate) live: Live<'a>,
    pub(crate) body: Markup,
}

impl Page<'_> {
    pub(crate) fn answer(self, status: StatusCode) -> Response {
        let Page { app, root, title, current, live, body } = self;
        let replicas = app.leases().map(|_| ("replicas", "ui/replicas", "Replicas"));
        let entries = [("services", "ui/services", "Services")].into_iter().chain(replicas);
        let entries = entries.chain([("work", "ui/work", "Work"), ("audit", "ui/audit", "Audit")]);
        let events = if let Live::Events(id) = live { Some(id) } else { None };
        // In milliseconds, as JavaScript counts.
        let now = app.now();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · services" }
                    link rel="icon" href=(root.link("assets/icon.svg")) type="image/svg+xml";
                    link rel="stylesheet" href=(root.link("assets/admin.css"));
                    script src=(root.link("assets/admin.js")) defer {}
                }
                body data-root=(root.0) data-now=(now) data-live=[events] data-period=[(live == Live::Periodic).then_some(PERIOD)] {
                    a.skip href="#main" { "Skip to the content" }
                    header {
                        nav aria-label="Pages" {
                            @for (id, path, name) in entries {
                                a href=(root.link(path)) aria-current=[(id == current).then_some("page")] { (name) }
                            }
                        }
                        @if live != Live::No { p #connection role="status" {} }
                    }
                    main #main tabindex="-1" { (body) }
                }
            }
        };
        (status, Html(page.into_string())).into_response()
    }
}

/// `GET /assets/{name}`
pub(crate) async fn asset(Parameters([name]): Parameters<1>) -> Response {
    let (kind, text) = match name.as_str() {
        "admin.css" => ("text/css; charset=utf-8", STYLE),
        "admin.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return ApiError::new(StatusCode::NOT_FOUND, "there is no such file").into_response(),
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "private, max-age=300")];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_root_wherever_it_is_mounted() {
        for (inner, original, root) in [
            ("/", "/", "./"),
            ("/", "/admin", "admin/"),
            ("/", "/admin/", "./"),
            ("/", "/a/b", "b/"),
            ("/login", "/admin/login", "./"),
            ("/ui/work", "/ui/work", "../"),
            ("/ui/services/mailer", "/admin/ui/services/mailer", "../../"),
        ] {
            assert_eq!(Root::new(inner, original).0, root, "{inner} {original}");
        }
    }
}
