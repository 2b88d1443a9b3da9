//! The command line.

use clap::{Parser, Subcommand};
use service_core::cli::Services;

/// The back office of a weather station, an example of service-core.
#[derive(Debug, Parser)]
#[command(
    name = "station",
    after_help = "\
The station imports files from inbox/, writes figures to station.db and mails to outbox/, all in the working directory.
DATABASE_URL selects another database: sqlite:other.db, or postgres://user:password@host/database.
The dashboard is at http://127.0.0.1:9876/; ADMIN_ADDR selects another address, and ADMIN_TOKEN sets a token.
services.toml and SERVICES__<SERVICE>__<KEY> configure the services. RUST_LOG sets what is logged (`RUST_LOG=debug`)."
)]
pub struct Args {
    /// Logs in JSON, one object per line.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs until Ctrl-C or SIGTERM (the default).
    Run,
    /// Processes all pending work and exits: status 0 if all services succeeded, else 1.
    Once,
    /// Lists the services that are linked into this program, with their attributes.
    List,
    /// Lists, shows and operates the services.
    #[command(subcommand)]
    Services(Services),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
        assert!(matches!(Args::parse_from(["station"]), Args { json: false, command: None }));
        for line in [["station", "--json", "once"], ["station", "once", "--json"]] {
            assert!(matches!(Args::parse_from(line), Args { json: true, command: Some(Command::Once) }));
        }
    }
}
