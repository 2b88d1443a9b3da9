//! The commands that need no running program.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::pin::pin;

use clap::{Command, Subcommand};
use clap_complete::Shell;
use serde::Serialize;

use crate::admin;
use crate::cli::args::{Output, Services};
use crate::cli::cli_error::CliError;
use crate::cli::remote::Done;
use crate::cli::run_summary::RunSummary;
use crate::cli::terminal::Terminal;
use crate::observe::explain::Explanation;
use crate::race::first;
use crate::registry::builder::RegistryBuilder;
use crate::registry::service_registry::ServiceRegistry;
use crate::registry::signals::{exit_in_spite_of_blocking_code, listen};

/// A service of this program.
#[derive(Serialize)]
struct Listed {
    service_id: String,
    schedule: String,
    enabled: bool,
    type_name: String,
    place: String,
}

impl From<Explanation> for Listed {
    fn from(explained: Explanation) -> Self {
        let enabled = explained.options.iter().find(|option| option.key == "enabled");
        Self {
            enabled: enabled.is_none_or(|option| option.value != "false"),
            service_id: explained.service_id,
            schedule: explained.schedule,
            type_name: explained.type_name,
            place: explained.place,
        }
    }
}

/// Builds the registry. Nothing is served, so no address of an admin interface has to be usable.
async fn build(builder: RegistryBuilder) -> Result<ServiceRegistry, CliError> {
    Ok(builder.without_admin_server().build().await?)
}

/// `list`
pub(crate) async fn list(builder: RegistryBuilder, output: &Output, terminal: Terminal) -> Result<Done, CliError> {
    let services = build(builder).await?;
    let explained = services.list().into_iter().filter_map(|id| services.get(&id)).map(|service| service.explain());
    let listed: Vec<Listed> = explained.map(Listed::from).collect();
    Done::new(output, &listed, || {
        if listed.is_empty() {
            return "this program has no services\n".to_owned();
        }
        let row = |service: &Listed| {
            let schedule = &service.schedule;
            let schedule = if service.enabled { schedule.clone() } else { format!("disabled ({schedule})") };
            [service.service_id.clone(), schedule, service.place.clone()]
        };
        terminal.table(0, Some(["SERVICE", "SCHEDULE", "DEFINED AT"]), listed.iter().map(row))
    })
}

/// `run-once`
pub(crate) async fn run_once(builder: RegistryBuilder, id: &str, output: &Output) -> Result<Done, CliError> {
    let services = build(builder).await?;
    // A signal drains the run, also if it arrives as the run begins.
    listen(&services)?;
    let mut run = pin!(services.run_once(id));
    let signals = async { _ = services.clone().until_shutdown().await };
    let report = match first(run.as_mut(), signals).await {
        Some(report) => report,
        None => run.await,
    };
    let summary = report.map(|report| RunSummary::of(id, &report));
    let status = i32::from(summary.as_ref().map_or(true, RunSummary::has_failed));
    exit_in_spite_of_blocking_code(&services, services.session(), status);
    let summary = summary?;
    let done = Done::new(output, &summary, || summary.line())?;
    Ok(Done { succeeded: !summary.has_failed(), ..done })
}

/// `alerts`
pub(crate) async fn alerts(builder: RegistryBuilder, job: Option<&str>) -> Result<Done, CliError> {
    let rules = admin::alert_rules(&build(builder).await?);
    let rules = match job {
        Some(job) => rules.job(job),
        None => rules,
    };
    Ok(Done { text: rules.to_string(), succeeded: true })
}

/// `grafana`
pub(crate) async fn grafana(builder: RegistryBuilder) -> Result<Done, CliError> {
    let dashboard = admin::grafana_dashboard(&build(builder).await?);
    Ok(Done { text: dashboard + "\n", succeeded: true })
}

/// `completions`
pub(crate) fn completions(shell: Shell, program: Option<Box<Command>>) -> Done {
    let name = program_name();
    let mut command = match program {
        Some(command) => *command,
        None => Command::new("program").subcommand(Services::augment_subcommands(Command::new("services"))),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Done { text: String::from_utf8_lossy(&script).into_owned(), succeeded: true }
}

/// Returns the name of the program's file.
pub(crate) fn program_name() -> String {
    name_of(&std::env::args_os().next().map(PathBuf::from).unwrap_or_default())
}

/// A dot can be a part of the name, as in `station-1.2`.
fn name_of(path: &Path) -> String {
    let Some(name) = path.file_name() else { return "program".to_owned() };
    let name = name.to_string_lossy();
    name.strip_suffix(EXE_SUFFIX).unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_keeps_its_dots() {
        for (file, name) in [("bin/station-1.2", "station-1.2"), ("station", "station")] {
            assert_eq!(name_of(&PathBuf::from(format!("{file}{EXE_SUFFIX}"))), name);
        }
        assert_eq!(name_of(Path::new("")), "program");
    }
}
