//! The commands of a service. Each is recorded in the audit.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::admin::app::{App, AppState, SharedApp};
use crate::admin::error::{ApiError, ApiResult, is_made};
use crate::admin::input::{Author, Input, Parameters};
use crate::observe::health::ServiceHealth;
use crate::registry::handle::ServiceHandle;
use crate::runtime::operator_store::{OperatorStore, PAUSED, StoredOverride};
use crate::runtime::run_history::nanos;
use crate::service::error::Error;
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

/// How long `run` waits for the end of the run.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

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
        let incarnation = || handle.service.inner.lock().status.incarnation;
        let before = incarnation();
        let done = match (command, shared.store()) {
            (Command::Pause, Some(store)) => {
                pause(&shared, &*store, &handle, &by, &why).await.map(|()| Effect::Complete)
            }
            (Command::Resume, Some(store)) => resume(&shared, &*store, &handle).await.map(|()| Effect::Complete),
            _ => call(&handle, command).await.map_err(ApiError::conflict),
        };
        // A start that fails is a change, too.
        let has_begun = matches!(command, Command::Start | Command::Reset) && incarnation() != before;
        if is_made(&done) || has_begun {
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
