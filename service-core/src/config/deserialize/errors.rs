//! [`Error`]: an error of serde, and its terms in plain language.
//!
//! serde creates errors by functions without a receiver, and an untagged enum drops the errors of the variants that do
//! not fit. The search needs what they say about a [probe](crate::config::values::Value::Probe), so it is recorded per
//! thread.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, Unexpected};

use super::path::Path;
use crate::config::units::TIME_FORMS;
use crate::humanize::one_of;
use crate::service::secret::INVALID;

/// The term for the type of a value that is the name of a variant.
pub(super) const TAG: &str = "variant identifier";

/// An error while settings are read.
#[derive(Clone, Debug)]
pub(super) struct Error {
    pub(super) problem: Problem,
    /// The path of the innermost reader that the error passed.
    pub(super) path: Option<Path>,
    /// The error is about a value inside a `Secret`.
    pub(super) secret: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Problem {
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
    /// A `${…}` cannot be read.
    Unreadable {
        variable: String,
        why: &'static str,
    },
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problem, path: None, secret: false }
    }
}

impl Error {
    /// Requests a type for a probe.
    pub(super) fn request(probe: usize, expected: &str) -> Self {
        de::Error::invalid_type(Unexpected::Bytes(&probe_bytes(probe)), &expected)
    }

    /// Whether it is the constant error of a `Secret`, which replaces every error from inside.
    pub(super) fn is_of_secret(&self) -> bool {
        matches!(&self.problem, Problem::Message(text) if text == INVALID)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Message(text) => f.write_str(text),
            Problem::InvalidType { expected, .. } => write!(f, "expected {expected}"),
            Problem::Missing(field) => write!(f, "`{field}` is missing"),
            Problem::UnknownField { field, .. } => write!(f, "unknown key `{field}`"),
            Problem::UnknownVariant { known, .. } => f.write_str(&one_of(known.iter().copied())),
            Problem::Unreadable { why, .. } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let error = Self::from(Problem::Message(message.to_string()));
        RECORD.with_borrow_mut(|record| {
            if error.is_of_secret() {
                // It replaces the previous error.
                let last = record.requests.last_mut().filter(|request| request.error == record.errors);
                last.into_iter().for_each(|request| request.secret = true);
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
        Problem::InvalidType { unexpected: unexpected.to_string(), expected }.into()
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        record(None, "");
        Problem::InvalidType { unexpected: format!("{length} items"), expected: expected.to_string() }.into()
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        record(probe_of(variant), TAG);
        Problem::UnknownVariant { variant: variant.to_owned(), known }.into()
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        record(None, "");
        Problem::UnknownField { field: field.to_owned(), known }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        record(None, "");
        Problem::Missing(field).into()
    }
}

/// A probe was requested as some type.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) probe: usize,
    /// The type, in the terms of serde.
    pub(super) expected: String,
    pub(super) secret: bool,
    /// The number of the error, from 1.
    error: usize,
}

/// The errors that were created while a type was read.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) requests: Vec<Request>,
    /// The number of all errors, including those that were dropped.
    pub(super) errors: usize,
}

thread_local! {
    static RECORD: RefCell<Record> = RefCell::default();
}

/// Reads a type, and returns the record of its errors.
pub(super) fn recorded<R>(read: impl FnOnce() -> R) -> (R, Record) {
    // Reading a type can read other settings.
    let outer = RECORD.take();
    let result = read();
    (result, RECORD.replace(outer))
}

fn record(probe: Option<usize>, expected: &str) {
    RECORD.with_borrow_mut(|record| {
        record.errors += 1;
        let error = record.errors;
        record.requests.extend(probe.map(|probe| Request {
            probe,
            expected: expected.to_owned(),
            secret: false,
            error,
        }));
    });
}

/// The bytes that represent a probe: they are not valid UTF-8, so that hardly any type accepts them, and contain its
/// number.
pub(super) fn probe_bytes(probe: usize) -> Vec<u8> {
    let mut bytes = vec![0xff];
    bytes.extend(probe.to_string().bytes());
    bytes
}

fn probe_of(text: &str) -> Option<usize> {
    text.strip_prefix(char::REPLACEMENT_CHARACTER)?.parse().ok()
}

/// The term of serde for an expected type, in plain language.
pub(super) fn in_words(expected: &str) -> String {
    if let Some(length) = list_length(expected) {
        return format!("a list of {length} {}", if length == "1" { "item" } else { "items" });
    }
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
        "unit" => "an empty table",
        "newtype variant" | "tuple variant" | "struct variant" => {
            "a table with the variant and its value, such as { variant = value }"
        }
        "struct Duration" => return format!("a time in {TIME_FORMS}"),
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("a nonzero ") => {
            return format!("{}, not 0", in_words(&other["a nonzero ".len()..]));
        }
        other => other,
    };
    words.to_owned()
}

/// The length in a term for a list of fixed length.
fn list_length(expected: &str) -> Option<&str> {
    let start = ["a tuple of size ", "an array of length "].into_iter().find_map(|start| expected.strip_prefix(start));
    let mut ends = [" elements in sequence", " element in sequence"].into_iter();
    start.or_else(|| ends.find_map(|end| expected.strip_suffix(end)))
}
