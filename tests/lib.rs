//! Shared code of the behaviour tests.

use std::fmt::{self, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// A subscriber that passes every event to a function, as one line: `WARN [service] message`.
pub struct Lines<F>(pub F);

impl<F: Fn(String) + Send + Sync + 'static> Subscriber for Lines<F> {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Several tests may have a subscriber at the same time.
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let service = if line.service.is_empty() { String::new() } else { format!("[{}] ", line.service) };
        (self.0)(format!("{} {service}{}", event.metadata().level(), line.message));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Makes every log statement check the subscriber of its thread each time. Otherwise a statement that is first reached
/// on a thread without a subscriber would be disabled on all threads.
pub fn ask_each_thread() {
    static ONCE: Once = Once::new();
    // A program that already has a subscriber for all threads does not need this.
    ONCE.call_once(|| drop(tracing::subscriber::set_global_default(Silent)));
}

/// Ignores every event, but requires to be asked each time.
struct Silent;

impl Subscriber for Silent {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    service: String,
    message: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let into = match field.name() {
            "message" => &mut self.message,
            "service.id" => &mut self.service,
            _ => return,
        };
        // Writing to a string cannot fail.
        let _ = write!(into, "{value:?}");
    }
}
