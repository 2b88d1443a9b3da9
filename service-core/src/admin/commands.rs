//! What operators change: the commands of a service, and overrides. Every change is recorded in the audit.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::app::{App, AppState, SharedApp};
use crate::admin::error::{ApiError, ApiResult, is_made};
use crate::admin::input::{Author, Input, Parameters, parse_until};
use crate::observe::health::ServiceHealth;
use crate::registry::handle::ServiceHandle;
use crate::rfc3339;
use crate::runtime::operator_store::{OperatorStore, PAUSED, StoredOverride};
use crate::runtime::registration::RegisteredService;
use crate::runtime::run_history::nanos;
use crate::service::error::Error;
use crate::service::outcome::RunReport;
use crate::service::secret::REDACTED;
use crate::service::state::ServiceState;

/// How long `run` waits for the end of the run.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of overrides for all services.
const DEFAULTS: &str = "defaults";

/// A command for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Start,
    Stop,
    Pause,
    Resume,
    Run,
    Wake,
    Reset,
}

impl Command {
    pub(crate) const ALL: [Self; 7] =
        [Self::Start, Self::Stop, Self::Pause, Self::Resume, Self::Run, Self::Wake, Self::Reset];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Run => "run",
            Self::Wake => "wake",
            Self::Reset => "reset",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
    }
}

/// The answer to a command.
#[derive(Debug, Serialize)]
pub(crate) struct CommandAnswer {
    #[serde(flatten)]
    health: ServiceHealth,
    /// Only of `run`, and only if the run has ended in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
}

/// `POST /services/{id}/{action}`
pub(crate) async fn command(
    State(app): AppState,
    Parameters([id, action]): Parameters<2>,
    Input(author): Input<Author>,
) -> ApiResult<Json<CommandAnswer>> {
    let known = Command::ALL.map(Command::name).join(", ");
    let Some(command) = Command::parse(&action) else {
        let why = format!("there is no command `{action}`, expected one of {known}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, why));
    };
    let (health, effect) = carry_out(&app, &id, command, author).await?;
    let report = if let Effect::RunEnded(report) = effect { Some(report) } else { None };
    Ok(Json(CommandAnswer { health, report }))
}

/// How far a command is that has been accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Complete,
    RunEnded(Report),
    /// The run has been requested, and has not ended in time.
    RunContinues,
}

/// The report of a run that was requested. If another replica made it, the health and the runs of the service here do
/// not show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The number of the run; `None` if another replica made it, or if no instance could be built for it.
    run: Option<u64>,
    succeeded: bool,
    processed: u64,
    failed: u64,
    again: bool,
    duration_ms: f64,
    pub(crate) error: Option<String>,
}

impl Report {
    /// Returns the report of a run that began after the run with the number `before`.
    fn new(report: &RunReport, handle: &ServiceHandle, before: u64) -> Self {
        let run = {
            let state = handle.service.inner.lock();
            let mut runs = state.history.iter().flat_map(|history| history.newest_first());
            runs.find(|run| run.run > before && run.nanos == nanos(report.duration())).map(|run| run.run)
        };
        Self {
            run,
            succeeded: report.error().is_none(),
            processed: report.processed(),
            failed: report.failed(),
            again: report.again(),
            duration_ms: report.duration().as_secs_f64() * 1_000.0,
            error: report.error().map(|error| format!("{error:#}")),
        }
    }
}

/// Carries out a command, and records it.
///
/// # Errors
/// There is no such service (404); its state does not allow the command (409); the database does not answer (503).
pub(crate) async fn carry_out(
    app: &SharedApp,
    id: &str,
    command: Command,
    author: Author,
) -> ApiResult<(ServiceHealth, Effect)> {
    let handle = app.service(id)?;
    let (by, why) = author.checked()?;
    let shared = app.clone();
    let work = async move {
        let done = match (command, shared.store()) {
            (Command::Pause, Some(store)) => {
                pause(&shared, &*store, &handle, &by, &why).await.map(|()| Effect::Complete)
            }
            (Command::Resume, Some(store)) => resume(&shared, &*store, &handle).await.map(|()| Effect::Complete),
            _ => call(&handle, command).await.map_err(ApiError::conflict),
        };
        if is_made(&done) {
            shared.record(handle.id(), command.name(), String::new(), &by, &why).await;
        }
        done.map(|effect| (handle.health(), effect))
    };
    app.on_home(work).await?
}

async fn call(handle: &ServiceHandle, command: Command) -> Result<Effect, Error> {
    let done = match command {
        Command::Start => handle.start().await,
        Command::Stop => handle.stop().await,
        Command::Pause => handle.pause().await,
        Command::Resume => handle.resume().await,
        Command::Reset => handle.reset().await,
        Command::Wake => {
            // No replica wakes a service with `run`.
            let is_long = handle.service.inner.lock().requests.options.long_run().is_some();
            if is_long || !handle.runs_elsewhere().await {
                handle.service.inner.lock().check_wake(handle.id())?;
            }
            handle.wake();
            Ok(())
        }
        Command::Run => {
            let before = handle.service.inner.lock().status.stats.runs;
            // A run may take hours.
            return match tokio::time::timeout(RUN_TIMEOUT, handle.run_now()).await {
                Ok(report) => Ok(Effect::RunEnded(Report::new(&report?, handle, before))),
                Err(_) => Ok(Effect::RunContinues),
            };
        }
    };
    done.map(|()| Effect::Complete)
}

/// Pauses a service by an override, so that it stays paused on every replica and after a restart. Another replica may
/// run a service that does not run here.
async fn pause(app: &App, store: &dyn OperatorStore, handle: &ServiceHandle, by: &str, why: &str) -> ApiResult<()> {
    let id = handle.id();
    let why_not = {
        let state = handle.service.inner.lock();
        // A pause in this process does not concern the replica that runs the service.
        let runs_here = state.serves_requests() && state.state() != ServiceState::Standby;
        let is_paused = state.requests.paused_by_override.is_some() || runs_here && state.requests.paused.is_some();
        match state.state() {
            _ if is_paused => Some("it is paused already"),
            _ if handle.service.inner.lease.is_some() || store.has_replicas() => None,
            ServiceState::Created | ServiceState::Stopped | ServiceState::Draining | ServiceState::Failed => {
                Some(state.why_down())
            }
            _ => None,
        }
    };
    if let Some(why_not) = why_not {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("cannot pause service `{id}`: {why_not}")));
    }
    let services = &app.registry.inner.services;
    let pause = StoredOverride {
        service_id: id.to_owned(),
        key: PAUSED.to_owned(),
        value: Value::Bool(true),
        by: by.to_owned(),
        why: why.to_owned(),
        at: app.now(),
        until: None,
    };
    store.set_override(services, pause).await.map_err(ApiError::unavailable)
}

/// Deletes the override that pauses a service, and ends a pause by `handle.pause()`.
async fn resume(app: &App, store: &dyn OperatorStore, handle: &ServiceHandle) -> ApiResult<()> {
    let services = &app.registry.inner.services;
    let pauses = store.pauses(services, &handle.service).await.map_err(ApiError::unavailable)?;
    let named = |of: &str| format!(" (`{PAUSED}` of `{of}`)");
    if !pauses.own {
        let Err(refused) = handle.resume().await else { return Ok(()) };
        let mut refused = ApiError::conflict(refused);
        if handle.service.inner.lock().requests.paused_by_override.is_some()
            && let Some(of) = pauses.other.and_then(|other| other.of)
        {
            refused.message += &named(&of);
        }
        return Err(refused);
    }
    // Without its own override, the service would be paused by another one.
    if let Some(other) = pauses.other {
        let (id, place) = (handle.id(), &other.place);
        let (what, named) = other.of.map_or(("row", String::new()), |of| ("override", named(&of)));
        let why = format!("cannot resume service `{id}`: it is paused by {place}; delete that {what}{named}");
        return Err(ApiError::new(StatusCode::CONFLICT, why));
    }
    let removed = store.remove_override(services, handle.id(), PAUSED).await;
    removed.map_err(ApiError::unavailable)?;
    // Without the override, the service may not be paused any more, or not run.
    let _ = handle.resume().await;
    Ok(())
}

/// What an override is for.
pub(crate) enum Overridden {
    Service(ServiceHandle),
    /// All services of the type with this name, or with `defaults` all services.
    Services(String),
}

/// The health of what an override is for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OverriddenHealth {
    Service(Box<ServiceHealth>),
    Services(Vec<ServiceHealth>),
}

impl Overridden {
    /// # Errors
    /// This is not the id of a service, the name of a type, or `defaults` (404).
    pub(crate) fn find(app: &App, name: &str) -> ApiResult<Self> {
        match app.registry.get(name) {
            Some(handle) => Ok(Self::Service(handle)),
            None if name == DEFAULTS || !services_of(app, name).is_empty() => Ok(Self::Services(name.to_owned())),
            None => Err(ApiError::no_service(name)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Service(handle) => handle.id(),
            Self::Services(name) => name,
        }
    }

    /// Checks an override.
    ///
    /// # Errors
    /// It cannot be used (422).
    fn check(&self, app: &App, store: &dyn OperatorStore, key: &str, value: &Value) -> ApiResult<()> {
        let checked = match self {
            Self::Service(handle) => store.check_override(&app.registry.inner.services, &handle.service, key, value),
            Self::Services(name) if key != PAUSED => {
                Err(format!("an override of `{name}` can only be `paused`: override `{key}` for one service"))
            }
            Self::Services(_) if !value.is_boolean() => Err(format!("`paused` is `{value}`, expected true or false")),
            Self::Services(_) => Ok(()),
        };
        checked.map_err(ApiError::unusable)
    }

    fn health(&self, app: &App) -> OverriddenHealth {
        match self {
            Self::Service(handle) => OverriddenHealth::Service(Box::new(handle.health())),
            Self::Services(name) => {
                let services = services_of(app, name);
                let health = services.iter().map(|service| app.registry.health_of(service));
                OverriddenHealth::Services(health.collect())
            }
        }
    }
}

/// Returns the services of a type, or with `defaults` all services.
fn services_of(app: &App, name: &str) -> Vec<Arc<RegisteredService>> {
    let mut services = app.registry.inner.services.all();
    services.retain(|service| name == DEFAULTS || service.descriptor.id() == name);
    services
}

/// The body of `PUT /services/{id}/overrides/{key}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewOverride {
    #[serde(deserialize_with = "some")]
    pub(crate) value: Option<Value>,
    pub(crate) by: Option<String>,
    pub(crate) why: Option<String>,
    pub(crate) until: Option<String>,
}

/// `null` is a value, too.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// `PUT /services/{id}/overrides/{key}`
pub(crate) async fn put_override(
    State(app): AppState,
    Parameters([id, key]): Parameters<2>,
    Input(new): Input<NewOverride>,
) -> ApiResult<Json<OverriddenHealth>> {
    set_override(&app, &id, &key, new).await.map(Json)
}

/// Sets an override, and records it.
///
/// # Errors
/// There is no such service (404); there is no database (409); the value cannot be used (422); the database does not
/// answer (503).
pub(crate) async fn set_override(
    app: &SharedApp,
    id: &str,
    key: &str,
    new: NewOverride,
) -> ApiResult<OverriddenHealth> {
    let overridden = Overridden::find(app, id)?;
    let store = store(app)?;
    let (by, why) = Author::new(new.by, new.why).checked()?;
    let Some(value) = new.value else { return Err(ApiError::unusable("`value` is missing")) };
    let (shared, key) = (app.clone(), key.to_owned());
    let work = async move {
        let services = &shared.registry.inner.services;
        overridden.check(&shared, &*store, &key, &value)?;
        let now = store.now(services).await.map_err(ApiError::unavailable)?;
        let until = new.until.as_deref().map(str::trim).filter(|until| !until.is_empty());
        let until = until.map(|until| parse_until(until, now)).transpose()?;
        let shown =
            if crate::config::is_option(&key) || key == PAUSED { value.to_string() } else { REDACTED.to_owned() };
        let until_text = until.map_or_else(String::new, |until| format!(" until {}", rfc3339::seconds(until)));
        let new = StoredOverride {
            service_id: overridden.name().to_owned(),
            key: key.clone(),
            value,
            by: by.clone(),
            why: why.clone(),
            at: now,
            until,
        };
        let set = store.set_override(services, new).await.map_err(ApiError::unavailable);
        if is_made(&set) {
            shared.record(overridden.name(), "override", format!("{key} = {shown}{until_text}"), &by, &why).await;
        }
        set?;
        Ok(overridden.health(&shared))
    };
    app.on_home(work).await?
}

/// `DELETE /services/{id}/overrides/{key}`
pub(crate) async fn delete_override(
    State(app): AppState,
    Parameters([id, key]): Parameters<2>,
    Input(author): Input<Author>,
) -> ApiResult<Json<OverriddenHealth>> {
    remove_override(&app, &id, &key, author).await.map(Json)
}

/// Removes an override, and records it.
///
/// # Errors
/// There is no such service or override (404); there is no database (409); the database does not answer (503).
pub(crate) async fn remove_override(
    app: &SharedApp,
    id: &str,
    key: &str,
    author: Author,
) -> ApiResult<OverriddenHealth> {
    let overridden = Overridden::find(app, id)?;
    let store = store(app)?;
    let (by, why) = author.checked()?;
    // PostgreSQL refuses a NUL in a text.
    let (shared, key) = (app.clone(), key.replace('\0', " "));
    let work = async move {
        let removed = store.remove_override(&shared.registry.inner.services, overridden.name(), &key).await;
        let removed = removed.map_err(ApiError::unavailable);
        if let Ok(false) = removed {
            let why = format!("`{}` has no override of `{key}`", overridden.name());
            return Err(ApiError::new(StatusCode::NOT_FOUND, why));
        }
        if is_made(&removed) {
            shared.record(overridden.name(), "remove override", key, &by, &why).await;
        }
        removed?;
        Ok(overridden.health(&shared))
    };
    app.on_home(work).await?
}

fn store(app: &App) -> ApiResult<Arc<dyn OperatorStore>> {
    let why = "overrides are kept in a database, and this program has none: add `.database(…)` or `.database_url(…)` to the builder";
    app.store().ok_or_else(|| ApiError::new(StatusCode::CONFLICT, why))
}
