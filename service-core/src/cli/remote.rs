//! The commands for a running program.

use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::args::{Change, Output};
use crate::cli::cli_error::CliError;
use crate::cli::client::Client;
use crate::cli::run_summary::RunSummary;
use crate::cli::status::{self, Run};
use crate::cli::terminal::{self, Terminal};
use crate::observe::explain::Explanation;
use crate::observe::health::{HealthStatus, ServiceHealth};
use crate::service::state::ServiceState;
use crate::suggest;

/// What a command prints, and whether it was successful.
pub(crate) struct Done {
    pub(crate) text: String,
    pub(crate) succeeded: bool,
}

impl Done {
    /// Returns the value as JSON, or the text.
    pub(crate) fn new(
        output: &Output,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<Self, CliError> {
        let text = if output.json {
            let json = serde_json::to_string_pretty(value).map_err(|error| CliError::Refused(error.to_string()))?;
            terminal::clean_json(&json) + "\n"
        } else {
            text()
        };
        Ok(Self { text, succeeded: true })
    }
}

/// One service as JSON.
#[derive(Serialize)]
struct OneService<'a> {
    #[serde(flatten)]
    health: &'a ServiceHealth,
    /// The newest first.
    last_runs: &'a [Run],
}

/// `status`
pub(crate) async fn status(
    client: &Client,
    id: Option<&str>,
    check: bool,
    output: &Output,
    terminal: Terminal,
) -> Result<Done, CliError> {
    let is_ill = |health: &ServiceHealth| health.status == HealthStatus::Unhealthy && !health.optional;
    let Some(id) = id else {
        let mut services = client.services().await?;
        status::sort(&mut services);
        let done = Done::new(output, &services, || status::overview(&services, SystemTime::now(), terminal))?;
        return Ok(Done { succeeded: !(check && services.iter().any(is_ill)), ..done });
    };
    let health: ServiceHealth = of_service(client, id, client.get(&path(id, "")).await).await?;
    let runs: Vec<Run> = of_service(client, id, client.get(&path(id, "/runs")).await).await?;
    let shown = OneService { health: &health, last_runs: &runs };
    let done = Done::new(output, &shown, || status::one(&health, &runs, SystemTime::now(), terminal))?;
    Ok(Done { succeeded: !(check && is_ill(&health)), ..done })
}

/// `explain`
pub(crate) async fn explain(client: &Client, id: &str, output: &Output, terminal: Terminal) -> Result<Done, CliError> {
    let explanation: Explanation = of_service(client, id, client.get(&path(id, "/explain")).await).await?;
    Done::new(output, &explanation, || {
        let mut text = terminal.paragraph(0, &explanation.title());
        for section in explanation.sections() {
            if let Some(title) = section.title {
                text += &format!("\n{title}\n");
            }
            // Cells that are missing are empty.
            let row = |row: Vec<String>| {
                let mut cells = row.into_iter();
                [(); 3].map(|()| cells.next().unwrap_or_default())
            };
            text += &terminal.table(2, None, section.rows.into_iter().map(row));
        }
        text
    })
}

/// Who changes something, and why.
#[derive(Serialize)]
struct Author<'a> {
    by: Option<String>,
    why: Option<&'a str>,
}

/// The answer to `run`.
#[derive(Deserialize)]
struct RunAnswer {
    state: ServiceState,
    /// `None`: the run has not ended. Its id is missing.
    report: Option<RunSummary>,
}

/// `start`, `stop`, `pause`, `resume`, `wake`, `reset`
pub(crate) async fn change(client: &Client, command: &str, change: &Change) -> Result<Done, CliError> {
    let health: ServiceHealth = post(client, command, change).await?;
    Done::new(&change.output, &health, || status::line(&health))
}

/// `run`
pub(crate) async fn run(client: &Client, change: &Change) -> Result<Done, CliError> {
    let RunAnswer { state, report } = post(client, "run", change).await?;
    let summary = match report {
        Some(report) => RunSummary { service_id: change.id.clone(), ..report },
        None => RunSummary::not_ended(&change.id, state == ServiceState::Standby),
    };
    let done = Done::new(&change.output, &summary, || summary.line())?;
    Ok(Done { succeeded: !summary.has_failed(), ..done })
}

async fn post<T: DeserializeOwned>(client: &Client, command: &str, change: &Change) -> Result<T, CliError> {
    let author = Author { by: change.by.clone().or_else(user), why: change.why.as_deref() };
    let answer = client.post(&path(&change.id, &format!("/{command}")), &author).await;
    of_service(client, &change.id, answer).await
}

/// Returns the name of the user, as the shell has it. With `sudo`, it is the one who called it.
fn user() -> Option<String> {
    let names = ["SUDO_USER", "USER", "LOGNAME", "USERNAME"];
    names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|name| !name.trim().is_empty())
}

fn path(id: &str, rest: &str) -> String {
    format!("/services/{}{rest}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

/// Adds the nearest id to the error if there is no such service.
async fn of_service<T>(client: &Client, id: &str, answer: Result<T, CliError>) -> Result<T, CliError> {
    let Err(CliError::NotFound(why)) = answer else { return answer };
    // Any server may answer 404 with an error, but only an admin interface has services.
    let services = client.services().await?;
    let near = suggest::nearest(id, services.iter().map(|health| health.service_id.as_str()));
    Err(CliError::NotFound(match near {
        Some(near) => format!("{why}, did you mean `{near}`?"),
        None => format!("{why}; `status` shows all services"),
    }))
}
