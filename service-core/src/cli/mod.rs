//! The command `services` for the binary of an application: lists, shows and operates its services from a shell.
//!
//! With clap, [`Services`] is a subcommand beside the application's own:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use clap::{Parser, Subcommand};
//! use service_core::cli::Services;
//! use service_core::prelude::*;
//!
//! #[derive(Parser)]
//! struct Arguments {
//!     #[command(subcommand)]
//!     command: Command,
//! }
//!
//! #[derive(Subcommand)]
//! enum Command {
//!     /// Imports a file.
//!     Import { file: String },
//!     /// Runs the services until Ctrl-C or SIGTERM.
//!     Serve,
//!     /// Lists, shows and operates the services.
//!     #[command(subcommand)]
//!     Services(Services),
//! }
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     let builder = ServiceRegistry::builder();
//!     let done = match Arguments::parse().command {
//!         Command::Services(services) => return services.execute(builder).await,
//!         Command::Serve => serve(builder).await,
//!         Command::Import { file } => import(&file).await,
//!     };
//!     match done {
//!         Ok(()) => ExitCode::SUCCESS,
//!         Err(error) => {
//!             eprintln!("error: {error:#}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//!
//! async fn serve(builder: service_core::RegistryBuilder) -> Result<()> {
//!     builder.start_all().await?.until_shutdown().await
//! }
//! # async fn import(_file: &str) -> Result<()> { Ok(()) }
//! ```
//!
//! A program without arguments of its own needs one line: [`run`] starts the services, and handles `services …`.
//!
//! # Commands
//!
//! | command | what it does | needs a running program |
//! |---|---|---|
//! | `list` | lists the services of this program with their schedules, and checks the configuration | no |
//! | `status [SERVICE]` | shows all services, the worst first, or one with its last runs | yes |
//! | `explain SERVICE` | what it does now, its next runs, its options and where they were set | yes |
//! | `start`, `stop`, `pause`, `resume`, `run`, `wake`, `reset SERVICE` | changes it, as the dashboard does | yes |
//! | `run-once SERVICE` | runs it once in this process and exits: for a Kubernetes CronJob or a systemd timer | no |
//! | `alerts`, `grafana` | print [alerting rules](crate::admin::alert_rules) for Prometheus, a [dashboard](crate::admin::grafana_dashboard) for Grafana | no |
//! | `completions SHELL` | prints a completion script for bash, zsh, fish and others | no |
//!
//! A running program is reached at its [admin interface](crate::admin): at `--address` or the environment variable
//! `ADMIN_ADDR`, else at the address of [`admin`](crate::RegistryBuilder::admin) in the builder (not if that comes from
//! a future), else at `127.0.0.1:9876`. The token is the environment variable `ADMIN_TOKEN`, else that of the builder;
//! there is no argument for it, because other users of the machine can see arguments.
//!
//! With `--json` the output is JSON. Without it, tables fit the terminal, or the environment variable `COLUMNS`; in a
//! pipe they have no limit. There is colour only on a terminal, and not if `NO_COLOR` is set.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | done; also if the run that `run` requested has not ended after 10 s: the output says so |
//! | 1 | refused or failed: an unknown service, a wrong token, a state that does not allow the command, a run that failed |
//! | 2 | wrong arguments |
//! | 3 | the admin interface cannot be reached, or does not answer in time |

mod address;
mod args;
mod cli_error;
mod client;
mod execute;
mod local;
mod program;
mod remote;
mod run_summary;
mod status;
mod terminal;

pub use args::Services;
pub use execute::IntoBuilder;
pub use program::run;
