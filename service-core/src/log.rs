//! Prints errors and warnings to standard error in a program without a tracing subscriber.
//!
//! The macros [`error!`](error) and [`warn!`](warn) call those of tracing. If no subscriber is set, a temporary one
//! receives the event and prints it. No subscriber is ever installed.
//!
//! All macros add the labels of the service whose loop logs the line. The tricky part is that a line does not know its
//! service: the loop sets the labels of its thread while it is polled ([`labelled`]).

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::field::{DisplayValue, Field, Visit};
use tracing::subscriber::{Interest, NoSubscriber};
use tracing::{Event, Level, Metadata, Subscriber, dispatcher, span};

use crate::rfc3339;

/// As `tracing::error!`; without a subscriber it prints a line to standard error.
macro_rules! error {
    ($($event:tt)+) => {
        $crate::log::emit(|| ::tracing::error!(service.labels = $crate::log::labels(), $($event)+))
    };
}

/// As `tracing::warn!`; without a subscriber it prints a line to standard error.
macro_rules! warn_ {
    ($($event:tt)+) => {
        $crate::log::emit(|| ::tracing::warn!(service.labels = $crate::log::labels(), $($event)+))
    };
}

/// As `tracing::info!`.
macro_rules! info {
    ($($event:tt)+) => { ::tracing::info!(service.labels = $crate::log::labels(), $($event)+) };
}

/// As `tracing::debug!`.
macro_rules! debug {
    ($($event:tt)+) => { ::tracing::debug!(service.labels = $crate::log::labels(), $($event)+) };
}

pub(crate) use {debug, error, info, warn_ as warn};

thread_local! {
    /// The labels of the service that this thread works for.
    static LABELS: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Returns the labels for the field of a log line. `None` is not recorded.
pub(crate) fn labels() -> Option<DisplayValue<Arc<str>>> {
    LABELS.with_borrow(|labels| labels.clone().map(tracing::field::display))
}

/// Runs `work`: the lines that it logs have these labels, and no others.
pub(crate) fn with_labels<T>(labels: Option<&Arc<str>>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<str>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LABELS.set(self.0.take());
        }
    }
    let _restore = Restore(LABELS.replace(labels.cloned()));
    work()
}

/// Awaits `work`: the lines that it logs have these labels.
pub(crate) fn labelled<T>(labels: Arc<str>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    // An `async fn` would have room for `work` twice.
    let mut work = Box::pin(work);
    poll_fn(move |task| with_labels(Some(&labels), || work.as_mut().poll(task)))
}

/// Sends the event to the subscriber that is set, or prints it.
pub(crate) fn emit(event: impl FnOnce()) {
    if dispatcher::get_default(|current| current.is::<NoSubscriber>()) {
        tracing::subscriber::with_default(StandardError, event);
    } else {
        event();
    }
}

/// Prints errors and warnings of this crate.
struct StandardError;

impl Subscriber for StandardError {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        // Standard error may be closed; then the line is lost.
        let _ = std::io::stderr().write_all(line(event, SystemTime::now()).as_bytes());
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// `2026-01-31T12:00:00Z WARN [email_sender] run failed: … attempt=2`
fn line(event: &Event<'_>, at: SystemTime) -> String {
    let mut parts = Parts::default();
    event.record(&mut parts);
    let Parts { service, message, fields } = parts;
    let (at, level) = (rfc3339::seconds(at), event.metadata().level());
    format!("{at} {level} {}\n", cleaned(format!("{service}{message}{fields}").trim_end()))
}

/// Escapes characters that control the terminal, and indents the lines after the first: the text of an error may
/// contain some, and must not look like another line.
fn cleaned(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => cleaned.push_str("\n    "),
            c if c.is_control() => cleaned.extend(c.escape_default()),
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// The parts of a line.
#[derive(Default)]
struct Parts {
    service: String,
    message: String,
    fields: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string fails only if the value's own code fails; then a part of the value is missing.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "service.id" => write!(self.service, "[{value:?}] "),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::sync::Mutex;

    use super::*;

    /// Collects the lines that would be printed.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Lines {
        fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            self.0.lock().push(line(event, SystemTime::UNIX_EPOCH));
        }

        fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

        fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

        fn enter(&self, _span: &span::Id) {}

        fn exit(&self, _span: &span::Id) {}
    }

    #[test]
    fn a_line_has_no_characters_that_control_the_terminal_and_shows_where_the_next_one_begins() {
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            warn_!(service.id = %"mailer", peer = "a\tb", "run failed: \u{1b}[2J\r\nERROR [other] größer\u{9b}");
        });
        let expected = "1970-01-01T00:00:00Z WARN [mailer] run failed: \\u{1b}[2J\\r\n    ERROR [other] größer\\u{9b} peer=a\\tb\n";
        assert_eq!(*lines.0.lock(), [expected]);
    }
}
