//! The command line.

/// The text of `--help`.
pub const HELP: &str = "\
station: the back office of a weather station, an example of service-core

usage: station [--json] [run|once|list]

  run       run until Ctrl-C or SIGTERM (the default)
  once      process all pending work and exit: status 0 if all services succeeded, else 1
  list      list the services of this program, without starting them

  --json    log in JSON, one object per line
  --help    print this text

The station imports files from inbox/, writes figures to station.db and mails to outbox/, all in the working directory.
DATABASE_URL selects another database: sqlite:other.db, or postgres://user:password@host/database.
The dashboard is at http://127.0.0.1:9876/; ADMIN_ADDR selects another address, and ADMIN_TOKEN sets a token.
services.toml and SERVICES__<SERVICE>__<KEY> configure the services. RUST_LOG sets what is logged (`RUST_LOG=debug`).
";

/// The command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Run,
    Once,
    List,
    Help,
}

/// The arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    pub command: Command,
    pub json: bool,
}

/// Parses the arguments, without the name of the program.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
    let (mut command, mut json) = (None, false);
    for arg in args {
        let asked = match arg.as_str() {
            "--help" | "-h" | "help" => return Ok(Args { command: Command::Help, json }),
            "--json" => {
                json = true;
                continue;
            }
            "run" => Command::Run,
            "once" => Command::Once,
            "list" => Command::List,
            _ => return Err(format!("unknown argument `{arg}`, expected run, once, list, --json or --help")),
        };
        if command.replace(asked).is_some() {
            return Err(format!("only one command is allowed: `{arg}` is the second"));
        }
    }
    Ok(Args { command: command.unwrap_or(Command::Run), json })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_arguments_the_command_is_run() {
        assert_eq!(parsed(""), Ok(Args { command: Command::Run, json: false }));
        assert_eq!(parsed("--json once"), Ok(Args { command: Command::Once, json: true }));
        assert_eq!(parsed("once --help").map(|args| args.command), Ok(Command::Help));
    }

    #[test]
    fn the_error_for_a_wrong_argument_names_it() {
        assert!(parsed("onse").unwrap_err().contains("unknown argument `onse`"));
        assert!(parsed("once list").unwrap_err().contains("`list` is the second"));
    }
}
