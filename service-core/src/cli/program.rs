//! [`run`]: the whole of `main` for a program without arguments of its own.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::args::Services;
use crate::cli::execute::IntoBuilder;
use crate::cli::local::program_name;
use crate::cli::terminal;
use crate::registry::signals::{exit_in_spite_of_blocking_code, start_listening};
use crate::service::error::Result;

/// Runs the services of this program, or lists, shows and operates them.
#[derive(Debug, Parser)]
#[command(name = "program")]
struct Program {
    #[command(subcommand)]
    command: Option<ProgramCommand>,
}

#[derive(Debug, Subcommand)]
enum ProgramCommand {
    /// Runs the services until Ctrl-C or SIGTERM (the default).
    Run,
    /// Lists, shows and operates the services.
    #[command(subcommand)]
    Services(Services),
}

/// Runs a program: without arguments, or with `run`, it starts the services and waits for their shutdown; `services …`
/// lists, shows and operates them, as the [module](crate::cli) says. Other arguments are an error, so that a wrong word
/// does not start the services. A program with arguments of its own uses [`Services`] instead.
///
/// Returns the exit status: 1 if the start or a service has failed. Prints the error to standard error.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use service_core::prelude::*;
///
/// #[service(interval = 30)]
/// async fn clean_up() {}
///
/// #[tokio::main]
/// async fn main() -> ExitCode {
///     service_core::cli::run(ServiceRegistry::builder().admin("127.0.0.1:9876")).await
/// }
/// ```
pub async fn run(builder: impl IntoBuilder) -> ExitCode {
    let command = Program::command().bin_name(program_name());
    let parsed = command.clone().try_get_matches().and_then(|matches| Program::from_arg_matches(&matches));
    match parsed.map(|program| program.command) {
        Ok(None | Some(ProgramCommand::Run)) => match start(builder).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nothing can be done if standard error is closed.
                let _ = terminal::complain(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        },
        Ok(Some(ProgramCommand::Services(services))) => services.program(command).execute(builder).await,
        Err(error) => {
            // The text of `--help` is such an error, too; its status is 0.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

async fn start(builder: impl IntoBuilder) -> Result<()> {
    let services = builder.into_builder().await?.build().await?;
    if let Err(error) = start_listening(&services).await {
        exit_in_spite_of_blocking_code(&services, services.session(), 1);
        return Err(error);
    }
    services.until_shutdown().await
}
