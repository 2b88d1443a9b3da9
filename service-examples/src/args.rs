//! The command line.

/// What `--help` prints.
pub const HELP: &str = "\
station: a weather station's back office, as an example of service-core

usage: station [--json] [run|once|list]

  run       work until Ctrl-C or SIGTERM (the default)
  once      work off everything there is, and end: exit status 0 when all services went well, else 1
  list      the services in this program, without starting any

  --json    log in JSON, one object a line
  --help    this text

Files dropped into inbox/ are imported, figures go to station.db, mails to outbox/, all in the working directory.
DATABASE_URL names another database: sqlite:other.db, or postgres://user:password@host/database.
services.toml and SERVICES__<SERVICE>__<KEY> configure the services, RUST_LOG says what is logged (`RUST_LOG=debug`).
";

/// What is to be done.
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

/// Reads the arguments, without the program's name.
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
            return Err(format!("one command at a time: `{arg}` is the second"));
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
    fn without_arguments_it_runs() {
        assert_eq!(parsed(""), Ok(Args { command: Command::Run, json: false }));
        assert_eq!(parsed("--json once"), Ok(Args { command: Command::Once, json: true }));
        assert_eq!(parsed("once --help").map(|args| args.command), Ok(Command::Help));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parsed("onse").unwrap_err().contains("unknown argument `onse`"));
        assert!(parsed("once list").unwrap_err().contains("`list` is the second"));
    }
}
