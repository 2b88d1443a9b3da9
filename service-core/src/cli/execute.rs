//! [`Services::execute`]: carries out a command, prints the result, and returns the exit status.

use std::process::ExitCode;

use crate::admin::AdminInCode;
use crate::cli::args::{Action, Services, Target};
use crate::cli::cli_error::CliError;
use crate::cli::client::Client;
use crate::cli::remote::Done;
use crate::cli::terminal::{self, Terminal};
use crate::cli::{local, remote};
use crate::registry::builder::RegistryBuilder;
use crate::service::error::{Error, Result};

/// What [`Services::execute`] and [`run`](crate::cli::run) accept: a [`RegistryBuilder`], or a future that returns one,
/// for example from an async function that connects to a database.
///
/// The future is awaited only by commands that need no running program. The others also answer while the database is
/// down; so they do not know the address of `.admin(…)` in a future.
pub trait IntoBuilder {
    /// Returns what is known of the admin interface without the future.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "only this crate calls it")]
    fn admin_in_code(&mut self) -> AdminInCode {
        AdminInCode::default()
    }

    /// Returns the builder.
    #[doc(hidden)]
    fn into_builder(self) -> impl Future<Output = Result<RegistryBuilder>>;
}

impl IntoBuilder for RegistryBuilder {
    #[allow(private_interfaces, reason = "only this crate calls it")]
    fn admin_in_code(&mut self) -> AdminInCode {
        self.admin_in_code()
    }

    async fn into_builder(self) -> Result<RegistryBuilder> {
        Ok(self)
    }
}

impl<F, E> IntoBuilder for F
where
    F: Future<Output = std::result::Result<RegistryBuilder, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    async fn into_builder(self) -> Result<RegistryBuilder> {
        self.await.map_err(Error::new)
    }
}

impl Services {
    /// Carries out the command. Prints its result to standard output and errors to standard error, and returns the exit
    /// status; the [module](crate::cli) lists both. `builder` is the one that the program also starts its services
    /// with, or a future of it.
    ///
    /// Dropping the future ends the command. What the running program has accepted is still carried out.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use clap::Parser;
    /// use service_core::cli::Services;
    /// use service_core::prelude::*;
    ///
    /// #[derive(Parser)]
    /// struct Arguments {
    ///     #[command(subcommand)]
    ///     services: Services,
    /// }
    ///
    /// async fn builder() -> Result<service_core::RegistryBuilder> {
    ///     // Here it could connect to a database.
    ///     Ok(ServiceRegistry::builder().admin("127.0.0.1:9876"))
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> ExitCode {
    ///     Arguments::parse().services.execute(builder()).await
    /// }
    /// ```
    pub async fn execute(self, builder: impl IntoBuilder) -> ExitCode {
        let terminal = Terminal::of_stdout();
        match self.carry_out(builder, terminal).await {
            Ok(done) => match terminal::print(&done.text) {
                Ok(()) if done.succeeded => ExitCode::SUCCESS,
                Ok(()) => ExitCode::FAILURE,
                Err(error) => report(&CliError::Refused(format!("the result cannot be written: {error}"))),
            },
            Err(failure) => report(&failure),
        }
    }

    async fn carry_out(self, mut builder: impl IntoBuilder, terminal: Terminal) -> std::result::Result<Done, CliError> {
        let code = builder.admin_in_code();
        let client = |target: &Target| Client::new(target.address(), code);
        match &self.action {
            Action::List { output } => local::list(builder.into_builder().await?, output, terminal).await,
            Action::Status { id, check, target, output } => {
                remote::status(&client(target)?, id.as_deref(), *check, output, terminal).await
            }
            Action::Explain { id, target, output } => remote::explain(&client(target)?, id, output, terminal).await,
            Action::Start(change) => remote::change(&client(&change.target)?, "start", change).await,
            Action::Stop(change) => remote::change(&client(&change.target)?, "stop", change).await,
            Action::Pause(change) => remote::change(&client(&change.target)?, "pause", change).await,
            Action::Resume(change) => remote::change(&client(&change.target)?, "resume", change).await,
            Action::Run(change) => remote::run(&client(&change.target)?, change).await,
            Action::Wake(change) => remote::change(&client(&change.target)?, "wake", change).await,
            Action::Reset(change) => remote::change(&client(&change.target)?, "reset", change).await,
            Action::RunOnce { id, output } => local::run_once(builder.into_builder().await?, id, output).await,
            Action::Alerts { job } => local::alerts(builder.into_builder().await?, job.as_deref()).await,
            Action::Grafana => local::grafana(builder.into_builder().await?).await,
            Action::Completions { shell } => Ok(local::completions(*shell, self.program)),
        }
    }
}

fn report(failure: &CliError) -> ExitCode {
    // Nothing can be done if standard error is closed.
    let _ = terminal::complain(&failure.to_string());
    failure.exit_code()
}
