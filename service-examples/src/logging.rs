//! Logging: one line per event, as text or as JSON.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;

/// Starts logging to standard output. `RUST_LOG` sets what is logged. Default: everything from `info` up, except the
/// statements of the database.
pub fn start(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,sea_orm=warn"));
    // The reader may close the pipe (`station | head`), which is not an error to report.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    if json {
        log.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    } else {
        // Colour only on a terminal, and not if NO_COLOR is set (https://no-color.org).
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        log.with_ansi(colour).with_target(false).with_timer(time as fn(&mut Writer<'_>) -> fmt::Result).init();
    }
}

/// Writes the local time.
fn time(writer: &mut Writer<'_>) -> fmt::Result {
    write!(writer, "{}", chrono::Local::now().format("%F %T%.3f"))
}
