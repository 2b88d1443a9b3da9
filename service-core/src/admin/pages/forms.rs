//! What the forms of the pages send. They do what the API does, and lead back to their page.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, RequestExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::app::AppState;
use crate::admin::commands::{Command, Effect, Report, carry_out};
use crate::admin::error::{ApiError, ApiResult};
use crate::admin::input::{Author, Parameters};
use crate::admin::overrides::{NewOverride, remove_override, set_override};
use crate::admin::pages::layout::Root;
use crate::admin::pages::service::{self, Message, OVERRIDDEN, REMOVED, REQUESTED};
use crate::admin::pages::work::failed_page;
use crate::admin::work::{Retry, retry_rows};

/// Reads a form.
async fn form<T: DeserializeOwned + 'static>(request: Request) -> ApiResult<T> {
    let read = request.extract::<Form<T>, _>().await;
    read.map(|Form(form)| form).map_err(|error| ApiError::new(error.status(), error.body_text()))
}

#[derive(Deserialize)]
struct CommandForm {
    command: String,
    by: Option<String>,
    why: Option<String>,
}

/// `POST /ui/services/{id}/commands`
pub(crate) async fn command(State(app): AppState, Parameters([id]): Parameters<1>, request: Request) -> Response {
    let root = Root::of(&request);
    let done = async {
        let form: CommandForm = form(request).await?;
        let command = Command::parse(&form.command).ok_or_else(|| ApiError::unusable("there is no such command"))?;
        let (_, effect) = carry_out(&app, &id, command, Author::new(form.by, form.why)).await?;
        Ok((command, effect))
    };
    match done.await {
        Ok((_, Effect::RunEnded(Report { error: Some(error), .. }))) => {
            service::page(&app, &id, &root, Some(Message::RunFailed(&error))).await
        }
        Ok((command, effect)) => {
            let done = if effect == Effect::RunContinues { REQUESTED } else { command.name() };
            Redirect::to(&format!("../{id}?done={done}")).into_response()
        }
        Err(refused) => service::page(&app, &id, &root, Some(Message::Refused(&refused))).await,
    }
}

#[derive(Deserialize)]
struct OverrideForm {
    key: String,
    value: Option<String>,
    until: Option<String>,
    by: Option<String>,
    why: Option<String>,
    remove: Option<String>,
}

/// `POST /ui/services/{id}/overrides`
pub(crate) async fn change_override(
    State(app): AppState,
    Parameters([id]): Parameters<1>,
    request: Request,
) -> Response {
    let root = Root::of(&request);
    let done = async {
        let OverrideForm { key, value, until, by, why, remove } = form(request).await?;
        if remove.is_some() {
            return remove_override(&app, &id, &key, Author::new(by, why)).await.map(|_| REMOVED);
        }
        // A number or a truth value is JSON; other text is a text.
        let text = value.map(|text| Value::String(text.trim().to_owned()));
        let json = text.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let set = async |value: Option<Value>| {
            let new = NewOverride { value, by: by.clone(), why: why.clone(), until: until.clone() };
            set_override(&app, &id, key.trim(), new).await.map(|_| OVERRIDDEN)
        };
        let Some(json) = json.filter(|json| !json.is_string()) else { return set(text).await };
        match set(Some(json)).await {
            // A setting that is a text may have digits only.
            Err(refused) if refused.status == StatusCode::UNPROCESSABLE_ENTITY => set(text).await.map_err(|_| refused),
            done => done,
        }
    };
    match done.await {
        Ok(done) => Redirect::to(&format!("../{id}?done={done}")).into_response(),
        Err(refused) => service::page(&app, &id, &root, Some(Message::Refused(&refused))).await,
    }
}

/// `POST /ui/work/{table}/retry`
pub(crate) async fn retry(State(app): AppState, Parameters([name]): Parameters<1>, request: Request) -> Response {
    let root = Root::of(&request);
    let done = async {
        // A list of pairs, because the key of each chosen row is one.
        let fields: Vec<(String, String)> = form(request).await?;
        let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let all = field("which").as_deref() == Some("all");
        let keys = fields.iter().filter(|(known, _)| known == "key").map(|(_, key)| serde_json::from_str(key));
        let keys: Vec<Vec<String>> =
            keys.collect::<Result<_, _>>().map_err(|_| ApiError::unusable("a key is malformed"))?;
        if !all && keys.is_empty() {
            return Err(ApiError::unusable("no row is selected: select rows, or retry all failed rows"));
        }
        let keys = (!all).then_some(keys);
        retry_rows(&app, &name, Retry { keys, all, by: field("by"), why: field("why") }).await
    };
    match done.await {
        Ok(rows) => Redirect::to(&format!("../../work?done={rows}")).into_response(),
        Err(refused) => failed_page(&app, &name, 0, &root, Some(&refused)).await,
    }
}
