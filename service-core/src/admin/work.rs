//! The tables of work: how many rows wait, which have failed, and their retry.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::admin::app::{App, AppState, SharedApp};
use crate::admin::error::{ApiError, ApiResult};
use crate::admin::input::{Asked, Author, Input, Parameters};
use crate::admin::samples::Sample;
use crate::runtime::operator_store::{FailedRow, Retried, WorkTable};

/// The rows of one page.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;
/// The most keys of one retry.
const MAX_KEYS: usize = 500;

/// How long a request waits for failed rows. The database has 5 s for them, after which the error names the index that
/// helps.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// One table, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) table: String,
    #[serde(flatten)]
    pub(crate) sample: Sample,
}

/// Returns all tables of work with their last counts. The first call waits for them, at most 2 s.
pub(crate) async fn all(app: &App) -> Vec<Table> {
    app.core.samples.keep_sampling(&app.registry).await;
    let mut samples = app.core.samples.current();
    let names = app.store().into_iter().flat_map(|store| store.work_tables()).map(|table| table.name().to_owned());
    names.map(|table| Table { sample: samples.remove(&table).unwrap_or_default(), table }).collect()
}

/// `GET /work`
pub(crate) async fn tables(State(app): AppState) -> Json<Vec<Table>> {
    Json(all(&app).await)
}

/// The query of `GET /work/{table}/failed`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Range {
    pub(crate) offset: u32,
    pub(crate) limit: Option<u32>,
}

/// `GET /work/{table}/failed`
pub(crate) async fn failed(
    State(app): AppState,
    Parameters([name]): Parameters<1>,
    Asked(range): Asked<Range>,
) -> ApiResult<Json<Vec<FailedRow>>> {
    Ok(Json(failed_rows(&app, &name, range).await?))
}

/// Returns a page of failed rows.
pub(crate) async fn failed_rows(app: &App, name: &str, range: Range) -> ApiResult<Vec<FailedRow>> {
    let table = table(app, name)?;
    let limit = range.limit.unwrap_or(PAGE).min(MAX_PAGE).into();
    let offset = range.offset.into();
    app.read_within(FAILED_TIMEOUT, async move { table.failed(offset, limit).await }).await
}

/// The body of `POST /work/{table}/retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retry {
    /// The primary keys of rows, each a list of texts.
    pub(crate) keys: Option<Vec<Vec<String>>>,
    /// Every failed row.
    pub(crate) all: bool,
    pub(crate) by: Option<String>,
    pub(crate) why: Option<String>,
}

/// `POST /work/{table}/retry`
pub(crate) async fn retry(
    State(app): AppState,
    Parameters([name]): Parameters<1>,
    Input(retry): Input<Retry>,
) -> ApiResult<Json<Value>> {
    let retried = retry_rows(&app, &name, retry).await?;
    Ok(Json(json!({ "retried": retried })))
}

/// Makes failed rows pending again, and records that.
///
/// # Errors
/// There is no such table (404); the rows are not given, or a key is not one of the table (422); the database refuses
/// or does not answer (503): then the rows so far stay pending, and are recorded.
pub(crate) async fn retry_rows(app: &SharedApp, name: &str, retry: Retry) -> ApiResult<u64> {
    let table = table(app, name)?;
    let (by, why) = Author::new(retry.by, retry.why).checked()?;
    let keys = match (retry.keys, retry.all) {
        (Some(keys), false) if keys.len() > MAX_KEYS => {
            return Err(ApiError::unusable(format!(
                "there are more than {MAX_KEYS} `keys`; use several requests, or `all`"
            )));
        }
        // PostgreSQL refuses a NUL in a text, and no key has one.
        (Some(keys), false) if !keys.is_empty() => {
            let has_none = |key: &Vec<String>| key.iter().all(|part| !part.contains('\0'));
            Some(keys.into_iter().filter(has_none).collect::<Vec<_>>())
        }
        (None, true) => None,
        _ => {
            return Err(ApiError::unusable(
                "name the rows: either `keys`, as `/work/{table}/failed` shows them, or `all`: true",
            ));
        }
    };
    let columns = table.key_columns();
    if let Some(wrong) = keys.iter().flatten().find(|key| key.len() != columns) {
        let why = format!("the key of `{name}` has {columns} part(s), but {wrong:?} has {}", wrong.len());
        return Err(ApiError::unusable(why));
    }
    let shared = app.clone();
    let work = async move {
        let Retried { rows, result } = table.retry(keys.as_deref()).await;
        if rows > 0 || result.is_ok() {
            let which = if keys.is_none() { "all failed rows" } else { "chosen rows" };
            let end = if result.is_ok() { "" } else { ", then it failed" };
            shared.record(table.name(), "retry", format!("{rows} rows ({which}){end}"), &by, &why).await;
            shared.core.samples.sample_soon(table, shared.now()).await;
        }
        result.map(|()| rows).map_err(ApiError::unavailable)
    };
    app.on_home(work).await?
}

fn table(app: &App, name: &str) -> ApiResult<Arc<dyn WorkTable>> {
    let tables = app.store().map(|store| store.work_tables()).unwrap_or_default();
    let found = tables.into_iter().find(|table| table.name() == name);
    found.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, format!("there is no table of work `{name}` in this program"))
    })
}
