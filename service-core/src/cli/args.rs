//! [`Services`]: the arguments after `services`.

use std::str::FromStr;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use clap_complete::Shell;

use crate::cli::address::Address;

/// The subcommands `list`, `status`, `explain`, `pause` and so on, as a variant of the application's own enum of
/// subcommands. The [module](crate::cli) lists them.
///
/// With `#[command(subcommand)]` on the variant they are below a subcommand: `station services status`.
/// [`execute`](Self::execute) carries them out.
///
/// ```
/// use clap::{Parser, Subcommand};
/// use service_core::cli::Services;
///
/// #[derive(Parser)]
/// struct Arguments {
///     #[command(subcommand)]
///     command: Command,
/// }
///
/// #[derive(Subcommand)]
/// enum Command {
///     /// Runs the services.
///     Serve,
///     /// Lists, shows and operates the services.
///     #[command(subcommand)]
///     Services(Services),
/// }
///
/// let arguments = Arguments::parse_from(["station", "services", "pause", "mailer", "--why", "the provider is down"]);
/// assert!(matches!(arguments.command, Command::Services(_)));
/// ```
#[derive(Clone, Debug)]
#[must_use = "`execute` carries out the command"]
pub struct Services {
    pub(crate) action: Action,
    /// All commands of the program, for completions.
    pub(crate) program: Option<Box<Command>>,
}

impl Services {
    /// Sets all commands of the program, for `services completions`: with derive, `Arguments::command()` of
    /// [`clap::CommandFactory`]. Without them, the completion scripts know `services` only.
    pub fn program(mut self, command: Command) -> Self {
        self.program = Some(Box::new(command));
        self
    }
}

/// Lists, shows and operates the services of this program.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Lists the services of this program with their schedules; no program has to run.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Shows the services of the running program, the worst first; or one service with its last runs.
    Status {
        /// The id of one service.
        #[arg(value_name = "SERVICE")]
        id: Option<String>,
        /// Exits with status 1 if a service is unhealthy, optional services aside.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
    /// Explains a service: what it does now, its next runs, its options and where each was set.
    Explain {
        /// The id of the service.
        #[arg(value_name = "SERVICE")]
        id: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
    /// Starts a service that is stopped.
    Start(Change),
    /// Stops a service on this replica, and waits until it has stopped.
    Stop(Change),
    /// Pauses a service: its current run ends, and no scheduled run follows.
    Pause(Change),
    /// Resumes a paused service.
    Resume(Change),
    /// Runs a service of the running program now, and waits at most 10 s for the end of the run.
    Run(Change),
    /// Wakes a service: its next run is due now.
    Wake(Change),
    /// Starts a failed service again, with a fresh instance.
    Reset(Change),
    /// Runs a service once in this process and exits; for a CronJob or a systemd timer.
    RunOnce {
        /// The id of the service.
        #[arg(value_name = "SERVICE")]
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Prints alerting rules for Prometheus that follow from the services and the tables of work; no program has to
    /// run.
    Alerts {
        /// The scrape job, if Prometheus scrapes several programs whose services have the same ids.
        #[arg(long)]
        job: Option<String>,
    },
    /// Prints a dashboard for Grafana; no program has to run.
    Grafana,
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// A change of one service.
#[derive(Args, Clone, Debug)]
pub(crate) struct Change {
    /// The id of the service.
    #[arg(value_name = "SERVICE")]
    pub(crate) id: String,
    /// Why; it is recorded in the audit.
    #[arg(long, value_name = "REASON")]
    pub(crate) why: Option<String>,
    /// Who; it is recorded in the audit [default: your user name].
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The running program.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The address of the admin interface of the running program [default: that of `.admin(…)`, else 127.0.0.1:9876];
    /// ADMIN_TOKEN is its token.
    #[arg(long, env = "ADMIN_ADDR")]
    pub(crate) address: Option<GivenAddress>,
}

impl Target {
    /// Returns the address that is given.
    pub(crate) fn address(&self) -> Option<&Address> {
        self.address.as_ref().and_then(|given| given.0.as_ref())
    }
}

/// An address. Blank text is none, as for the program, which reads the same environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenAddress(Option<Address>);

impl FromStr for GivenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

/// How the result is printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Output {
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl FromArgMatches for Services {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { action: Action::from_arg_matches(matches)?, program: None })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.action.update_from_arg_matches(matches)
    }
}

impl Subcommand for Services {
    fn augment_subcommands(command: Command) -> Command {
        Action::augment_subcommands(command)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Action::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Action::has_subcommand(name)
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::{CommandFactory, Parser};

    use super::*;

    /// An application whose own arguments have the same names.
    #[derive(Debug, Parser)]
    struct Application {
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: Own,
    }

    #[derive(Debug, Subcommand)]
    enum Own {
        Serve,
        #[command(subcommand)]
        Services(Services),
    }

    #[derive(Debug, Parser)]
    struct Flat {
        #[command(subcommand)]
        command: FlatCommand,
    }

    #[derive(Debug, Subcommand)]
    enum FlatCommand {
        Serve,
        #[command(flatten)]
        Services(Services),
    }

    fn parse(line: &str) -> Result<Action, clap::Error> {
        match Application::try_parse_from(line.split(' '))?.command {
            Own::Services(services) => Ok(services.action),
            Own::Serve => panic!("{line}"),
        }
    }

    #[test]
    fn the_commands_stand_beside_those_of_an_application() {
        Application::command().debug_assert();
        Flat::command().debug_assert();
        assert!(matches!(Application::parse_from(["station", "serve"]).command, Own::Serve));
        assert!(matches!(Flat::parse_from(["station", "serve"]).command, FlatCommand::Serve));
        let flat = Flat::parse_from(["station", "status", "mailer"]).command;
        assert!(matches!(flat, FlatCommand::Services(Services { action: Action::Status { id: Some(_), .. }, .. })));
        for line in ["station services list --json", "station services list", "station services run-once mailer"] {
            assert!(parse(line).is_ok(), "{line}");
        }
        let json = "station services status --json";
        assert!(matches!(
            parse(json),
            Ok(Action::Status { output: Output { json: true }, check: false, id: None, .. })
        ));
        let Ok(Action::Pause(change)) =
            parse("station services pause mailer --why spam --by ann --address localhost:1")
        else {
            panic!("it is a change");
        };
        assert_eq!(
            (change.id.as_str(), change.why.as_deref(), change.by.as_deref()),
            ("mailer", Some("spam"), Some("ann"))
        );
        assert_eq!(change.target.address().map(ToString::to_string).as_deref(), Some("localhost:1"));
    }

    #[test]
    fn a_wrong_argument_is_an_error_that_names_the_nearest() {
        for (line, kind, part) in [
            ("station services statsu", ErrorKind::InvalidSubcommand, "'status'"),
            ("station services", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "run-once"),
            ("station services pause", ErrorKind::MissingRequiredArgument, "<SERVICE>"),
            ("station services pause a --reason b", ErrorKind::UnknownArgument, "--reason"),
            ("station services status --address localhost:x", ErrorKind::ValueValidation, "127.0.0.1:9876"),
            ("station services list --address localhost:1", ErrorKind::UnknownArgument, "--address"),
            ("station services completions tcsh", ErrorKind::InvalidValue, "fish"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}: {error}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
