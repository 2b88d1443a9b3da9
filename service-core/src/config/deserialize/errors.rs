//! [`Error`]: what serde says went wrong; and its words, as a person would say them.
//!
//! serde makes errors out of nothing, and an untagged enum drops those of the variants that it tries in vain. What they
//! say of a [probe](crate::config::values::Value::Probe) is needed all the same, so it is recorded for the thread.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, Unexpected};

use super::path::Path;
use crate::config::units::TIME_FORMS;
use crate::humanize::one_of;
use crate::service::secret::INVALID;

/// An error on its way out.
#[derive(Clone, Debug)]
pub(super) struct Error {
    pub(super) kind: Kind,
    /// Of the value that the first reader on the way had.
    pub(super) path: Option<Path>,
    /// It comes from within a `Secret`.
    pub(super) secret: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Message(String),
    InvalidType {
        unexpected: String,
        expected: String,
    },
    Missing(&'static str),
    UnknownField {
        field: String,
        known: &'static [&'static str],
    },
    UnknownVariant {
        variant: String,
        known: &'static [&'static str],
    },
    /// A `${…}` that cannot be read.
    Unreadable {
        variable: String,
        why: &'static str,
    },
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self { kind, path: None, secret: false }
    }
}

impl Error {
    /// What a `Secret` says in place of every error from within.
    pub(super) fn is_of_secret(&self) -> bool {
        matches!(&self.kind, Kind::Message(text) if text == INVALID)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Message(text) => f.write_str(text),
            Kind::InvalidType { expected, .. } => write!(f, "expected {expected}"),
            Kind::Missing(field) => write!(f, "`{field}` is missing"),
            Kind::UnknownField { field, .. } => write!(f, "unknown key `{field}`"),
            Kind::UnknownVariant { known, .. } => f.write_str(&one_of(known.iter().copied())),
            Kind::Unreadable { why, .. } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let error = Self::from(Kind::Message(message.to_string()));
        RECORD.with_borrow_mut(|record| {
            if error.is_of_secret() {
                // It takes the place of the error before it.
                let asked = record.asked.last_mut().filter(|asked| asked.error == record.errors);
                asked.into_iter().for_each(|asked| asked.secret = true);
            } else {
                record.errors += 1;
            }
        });
        error
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let probe =
            if let Unexpected::Bytes(bytes) = unexpected { probe_of(&String::from_utf8_lossy(bytes)) } else { None };
        record(probe, &expected);
        Kind::InvalidType { unexpected: unexpected.to_string(), expected }.into()
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        record(None, "");
        Kind::InvalidType { unexpected: format!("{length} items"), expected: expected.to_string() }.into()
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        record(probe_of(variant), "variant identifier");
        Kind::UnknownVariant { variant: variant.to_owned(), known }.into()
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        record(None, "");
        Kind::UnknownField { field: field.to_owned(), known }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        record(None, "");
        Kind::Missing(field).into()
    }
}

/// What a type asked of a probe.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) probe: usize,
    /// In serde's words.
    pub(super) expected: String,
    pub(super) secret: bool,
    /// Which of the errors it was, from 1.
    error: usize,
}

/// What happened while a type was read.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) asked: Vec<Asked>,
    /// All errors that were made, those included that somebody dropped.
    pub(super) errors: usize,
}

thread_local! {
    static RECORD: RefCell<Record> = RefCell::default();
}

/// Reads, and says what happened.
pub(super) fn recorded<R>(read: impl FnOnce() -> R) -> (R, Record) {
    // A type may read other settings while it is read.
    let outer = RECORD.take();
    let result = read();
    (result, RECORD.replace(outer))
}

fn record(probe: Option<usize>, expected: &str) {
    RECORD.with_borrow_mut(|record| {
        record.errors += 1;
        let error = record.errors;
        record.asked.extend(probe.map(|probe| Asked { probe, expected: expected.to_owned(), secret: false, error }));
    });
}

/// A probe, as it is shown to a type: bytes that are no text, so that nothing takes them, and that say which one it is.
pub(super) fn probe_bytes(probe: usize) -> Vec<u8> {
    let mut bytes = vec![0xff];
    bytes.extend(probe.to_string().bytes());
    bytes
}

fn probe_of(text: &str) -> Option<usize> {
    text.strip_prefix(char::REPLACEMENT_CHARACTER)?.parse().ok()
}

/// serde's words for what it expects, in those of a person who writes a file.
pub(super) fn in_words(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number, not negative",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "struct Duration" => return format!("a time in {TIME_FORMS}"),
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("a nonzero ") => {
            return format!("{}, not 0", in_words(&other["a nonzero ".len()..]));
        }
        other => other,
    };
    words.to_owned()
}
