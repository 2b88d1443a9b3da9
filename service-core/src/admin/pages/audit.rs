//! The page of the audit: who changed what, when and why.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::admin::api::AuditQuery;
use crate::admin::app::AppState;
use crate::admin::input::Asked;
use crate::admin::pages::layout::{Live, Page, Root};
use crate::admin::pages::parts::audit_table;
use crate::runtime::operator_store::AuditPage;

/// `GET /ui/audit`
pub(crate) async fn audit(State(app): AppState, Asked(query): Asked<AuditQuery>, request: Request) -> Response {
    let root = Root::of(&request);
    let now = app.now();
    let page = query.page();
    let read = app.audit(page.clone()).await;
    let status = read.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK);
    let body = html! {
        h1 { "Audit" }
        @match &read {
            Err(error) => p.message.refused role="alert" { (error.message) },
            Ok(read) if read.entries.is_empty() => p { "Nothing is recorded." },
            Ok(read) => {
                (audit_table(read, now))
                @if read.missing.is_none() && read.entries.len() as u64 >= u64::from(page.limit) {
                    @if let Some(last) = read.entries.last() { nav.pages aria-label="Pages of entries" { a href=(older(&last.id, &page)) { "Older entries" } } }
                }
            }
        }
        p.small {
            @if app.store().is_some() { "Entries are kept for 90 days." } @else { "Without a database, the last 1,000 entries are kept until the program ends." }
        }
    };
    Page { app: &app, root: &root, title: "Audit", current: "audit", live: Live::No, body }.answer(status)
}

/// Returns the link to the entries before the one with the id `last`, of the same service or table.
fn older(last: &str, page: &AuditPage) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let subject = page.subject.as_deref().map_or_else(String::new, |subject| format!("&subject={}", encoded(subject)));
    format!("?before={}&limit={}{subject}", encoded(last), page.limit)
}
