//! What the terminal shows: a line an event, or a JSON object a line.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;

/// Starts logging to standard output. `RUST_LOG` says what is shown; without it everything from `info` up, except for
/// the database's statements.
pub fn start(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,sea_orm=warn"));
    // Whoever reads may stop reading (`station | head`): that is no event to report.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    if json {
        log.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    } else {
        // Colour is for eyes, and for those who did not ask to be spared (https://no-color.org).
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        log.with_ansi(colour).with_target(false).with_timer(time as fn(&mut Writer<'_>) -> fmt::Result).init();
    }
}

/// The time as the reader's own clock has it.
fn time(writer: &mut Writer<'_>) -> fmt::Result {
    write!(writer, "{}", chrono::Local::now().format("%F %T%.3f"))
}
