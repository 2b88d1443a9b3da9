//! [`Error`]: what serde says went wrong, before it has a place; and its words, as a person would say them.

use std::fmt;

use serde::de::{self, Unexpected};

use crate::config::errors::ConfigError;
use crate::config::units::TIME_FORMS;
use crate::humanize::one_of;

/// An error on its way out.
#[derive(Debug)]
pub(in crate::config) enum Error {
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
    /// It knows its place.
    Located(Box<ConfigError>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(text) => f.write_str(text),
            Self::InvalidType { expected, .. } => write!(f, "expected {expected}"),
            Self::Missing(field) => write!(f, "`{field}` is missing"),
            Self::UnknownField { field, .. } => write!(f, "unknown key `{field}`"),
            Self::UnknownVariant { known, .. } => f.write_str(&one_of(known.iter().copied())),
            Self::Located(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::InvalidType { unexpected: unexpected.to_string(), expected: expected.to_string() }
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::InvalidType { unexpected: format!("{length} items"), expected: expected.to_string() }
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownVariant { variant: variant.to_owned(), known }
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownField { field: field.to_owned(), known }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

impl Error {
    pub(in crate::config) fn into_config(self) -> ConfigError {
        match self {
            Self::Located(error) => *error,
            // `locate` leaves no other.
            other => ConfigError::Settings { service: String::new(), problem: other.to_string() },
        }
    }
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
