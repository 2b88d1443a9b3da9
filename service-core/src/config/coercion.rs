//! What a value can be read as. Text of the environment has no type, so it becomes what is asked for; the values of the
//! other layers keep the type that they are written with.

use std::time::Duration;

use super::toml;
use super::units::{self, LONGEST};
use super::values::{Table, Value};

/// A time: a number is seconds, a string has units.
pub(crate) fn duration(value: &Value) -> Option<Duration> {
    let time = match value {
        Value::Int(seconds) => Duration::from_secs(u64::try_from(*seconds).ok()?),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok()?,
        Value::Time(time) => *time,
        Value::Str(text) => units::duration(text)?,
        Value::Text { text, .. } => match text.trim().parse() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            Err(_) => units::duration(text)?,
        },
        _ => return None,
    };
    (time <= LONGEST).then_some(time)
}

/// A whole number from 0.
pub(crate) fn count(value: &Value) -> Option<u32> {
    match value {
        Value::Int(count) => u32::try_from(*count).ok(),
        Value::Text { text, .. } => text.trim().parse().ok(),
        _ => None,
    }
}

/// A number, with or without a fraction.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Text { text, .. } => text.trim().parse().ok(),
        _ => None,
    }
}

/// Yes or no, as people write it into environment variables.
pub(crate) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Text { text, .. } => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A text that is not empty, without the blanks around it.
pub(crate) fn word(value: &Value) -> Option<&str> {
    match value {
        Value::Str(text) | Value::Text { text, .. } => Some(text.trim()).filter(|text| !text.is_empty()),
        _ => None,
    }
}

/// A list of such texts.
pub(crate) fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::List(items) => items.iter().map(|item| word(&item.value).map(str::to_owned)).collect(),
        Value::Text { text, .. } => items(text).iter().map(|item| word(item).map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The items of a list in a text without a type: those of a TOML array, else what stands between commas.
pub(crate) fn items(text: &str) -> Vec<Value> {
    if let Some(Value::List(items)) = toml::parse_value(text) {
        return items.into_iter().map(|item| item.value).collect();
    }
    if text.trim().is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| Value::Text { text: item.trim().to_owned(), secret: false }).collect()
}

/// The table in a text without a type: an inline table of TOML.
pub(crate) fn table(text: &str) -> Option<Table> {
    match toml::parse_value(text)? {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// What a text without a type would be in the file: a number, a truth value, a list or a table where it looks exactly so,
/// else a string.
pub(crate) fn natural(text: &str) -> Value {
    match (text.parse::<bool>(), text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(flag), ..) => Value::Bool(flag),
        (_, Ok(number), _) if number.to_string() == text => Value::Int(number.into()),
        (.., Ok(number)) if format!("{number:?}") == text && number.is_finite() => Value::Float(number),
        _ => match toml::parse_value(text) {
            Some(value @ (Value::List(_) | Value::Table(_))) => value,
            _ => Value::Str(text.to_owned()),
        },
    }
}
