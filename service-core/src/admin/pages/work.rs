//! The pages of the tables of work: how many rows wait, and which have failed.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::admin::app::{AppState, SharedApp};
use crate::admin::error::ApiError;
use crate::admin::input::{Asked, Parameters};
use crate::admin::pages::layout::{Live, Page, Root};
use crate::admin::pages::parts::{author, data_table, duration, time};
use crate::admin::pages::service::Message;
use crate::admin::samples::CAP;
use crate::admin::work::{Range, Table, all, failed_rows as read_failed};

/// The rows of one page.
const PAGE: u32 = 50;

/// The query of the page of all tables.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    /// How many rows a retry has set back to pending.
    done: Option<u64>,
}

/// `GET /ui/work`
pub(crate) async fn work(State(app): AppState, Asked(query): Asked<Query>, request: Request) -> Response {
    let root = Root::of(&request);
    let tables = all(&app).await;
    let now = app.now();
    let body = html! {
        @if let Some(rows) = query.done { (Message::Done(&format!("rows set back to pending: {rows}")).show()) }
        h1 { "Work" }
        @if tables.is_empty() { p { "This program has no table of work (`#[derive(WorkItem)]`), or no database." } }
        @for table in &tables {
            @let counts = table.sample.counts;
            section.card {
                h2 { (table.table) }
                @if let Some(error) = &table.sample.error { p.message.refused { "Not all rows were counted: " (error) } }
                @match counts {
                    None => p { "The rows have not been counted yet." },
                    Some(counts) => {
                        dl.facts {
                            (count("Pending", Some(counts.pending)))
                            (count("Due", Some(counts.due)))
                            (count("In flight", Some(counts.in_flight)))
                            (count("Failed", counts.failed))
                            div { dt { "Oldest due row" } dd { @match counts.oldest_due_seconds { Some(age) => { "due for " (duration(age * 1_000.0)) } None => "–" } } }
                            div { dt { "Counted" } dd { (time(table.sample.sampled_at, now)) } }
                        }
                        p { a href=(root.link(&link(table))) { "Failed rows" } }
                    }
                }
            }
        }
    };
    Page { app: &app, root: &root, title: "Work", current: "work", live: Live::No, body }.answer(StatusCode::OK)
}

fn link(table: &Table) -> String {
    format!("ui/work/{}", utf8_percent_encode(&table.table, NON_ALPHANUMERIC))
}

fn count(name: &str, count: Option<u64>) -> Markup {
    let or_more = |count| if count >= CAP { " or more" } else { "" };
    html! { div { dt { (name) } dd { @match count { Some(count) => { (count) (or_more(count)) } None => "–" } } } }
}

/// `GET /ui/work/{table}`
pub(crate) async fn failed_rows(
    State(app): AppState,
    Parameters([name]): Parameters<1>,
    Asked(range): Asked<Range>,
    request: Request,
) -> Response {
    failed_page(&app, &name, range.offset, &Root::of(&request), None).await
}

/// The page of the failed rows, with why a retry was refused.
pub(super) async fn failed_page(
    app: &SharedApp,
    name: &str,
    offset: u32,
    root: &Root,
    refused: Option<&ApiError>,
) -> Response {
    // One more than is shown, to see whether there is a next page.
    let read = read_failed(app, name, Range { offset, limit: Some(PAGE + 1) }).await;
    let (rows, problem) = match read {
        Ok(rows) => (rows, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let has_more = rows.len() > PAGE as usize;
    let table = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    let rows_from = |offset: u32| root.link(&format!("ui/work/{table}?offset={offset}"));
    let body = html! {
        @for refused in refused.iter().copied().chain(&problem) { p.message.refused role="alert" { (refused.message) } }
        h1 { "Failed rows of " (name) }
        p { a href=(root.link("ui/work")) { "All tables of work" } }
        @if rows.is_empty() && problem.is_none() { p { "No row has failed." } }
        @if !rows.is_empty() {
            form method="post" action=(root.link(&format!("ui/work/{table}/retry"))) {
                (data_table("Failed rows", &["Retry", "Key", "Error", "Attempts", "Since"], html! {
                    @for row in rows.iter().take(PAGE as usize) {
                        @let key = row.key.join(", ");
                        tr {
                            td { input type="checkbox" name="key" value=(serde_json::json!(row.key)) aria-label={ "Retry row " (key) }; }
                            td { (key) }
                            td.error { (row.error.as_deref().unwrap_or("–")) }
                            td { @if let Some(attempts) = row.attempts { (attempts) } @else { "–" } }
                            td { (row.updated_at.as_deref().unwrap_or("–")) }
                        }
                    }
                }))
                div.act {
                    (author("retry"))
                    div.buttons {
                        button type="submit" name="which" value="chosen" { "Retry the chosen rows" }
                        button type="submit" name="which" value="all" { "Retry all failed rows" }
                    }
                }
            }
        }
        nav.pages aria-label="Pages of rows" {
            @if offset > 0 { a href=(rows_from(offset.saturating_sub(PAGE))) { "Previous rows" } }
            @if has_more { a href=(rows_from(offset.saturating_add(PAGE))) { "Next rows" } }
        }
    };
    let status = refused.or(problem.as_ref()).map_or(StatusCode::OK, |refused| refused.status);
    Page { app, root, title: "Failed rows", current: "work", live: Live::No, body }.answer(status)
}
