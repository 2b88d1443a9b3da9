//! The forms that a value can have for an expected type.

use std::time::Duration;

use super::errors::TAG;
use crate::config::coercion;
use crate::config::layers::{Layer, Origin};
use crate::config::values::{Node, Value, list};

/// A form of a value.
pub(super) struct Form {
    pub(super) value: Value,
    /// Text that would have another type in the file.
    pub(super) retyped: bool,
}

/// The term of serde for the type of a time.
pub(super) const TIME: &str = "struct Duration";

/// Whether a type accepts any value of the kind that this one is. Of other types it is not known.
pub(super) fn accepts(expected: &str, value: &Value) -> bool {
    match value {
        Value::Str(_) | Value::Time(_) => expected == "a string",
        Value::Int(_) | Value::Float(_) => is_number(expected),
        _ => true,
    }
}

fn is_number(expected: &str) -> bool {
    let expected = expected.strip_prefix("a nonzero ").unwrap_or(expected);
    ["u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize", "f32", "f64"].contains(&expected)
}

/// The forms of a value for an expected type, the most likely first. An item of a list is only split into items if its
/// type is known to be a list: else there would be no end.
pub(super) fn forms(value: &Value, expected: &str, is_item: bool) -> Vec<Form> {
    if expected == TIME {
        let nowhere = Origin::new(Layer::Default, "");
        let parts = |time: Duration| {
            let parts = [("secs", Value::from(time.as_secs())), ("nanos", time.subsec_nanos().into())];
            Value::Table(parts.map(|(key, part)| (key.to_owned(), Node::new(part, &nowhere))).into())
        };
        let natural = |value| Form { value, retyped: false };
        let absent = matches!(value, Value::Text { text, .. } if text.is_empty()).then_some(Value::Null);
        return absent.into_iter().chain(coercion::duration(value).map(parts)).map(natural).collect();
    }
    let Value::Text { text, .. } = value else {
        return vec![Form { value: value.clone(), retyped: false }];
    };
    let natural = coercion::as_in_file(text);
    let string = || Value::Str(text.clone());
    let items = || Some(list(coercion::items(text)));
    let table = || coercion::table(text).map(Value::Table);
    let number = || match (text.trim().parse::<i128>(), text.trim().parse::<f64>()) {
        (Ok(whole), _) => Some(Value::Int(whole)),
        (Err(_), Ok(number)) => Some(Value::Float(number)),
        _ => None,
    };
    let boolean = || coercion::boolean(value).map(Value::Bool);
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| expected.starts_with(beginning));
    let mut values = match expected {
        _ if is_number(expected) => vec![number()],
        "a boolean" => vec![boolean()],
        "a sequence" => vec![items()],
        "a map" => vec![table()],
        "unit" => Vec::new(),
        "a string" | "a character" | TAG => vec![Some(string())],
        "string or map" => vec![Some(string()), table()],
        _ if starts(&["struct ", "struct variant "]) => vec![table()],
        _ if starts(&["a tuple of size ", "an array of length ", "tuple struct ", "tuple variant "]) => vec![items()],
        // The term of a type that is not known here.
        _ => vec![Some(natural.clone()), Some(string()), number(), boolean(), items().filter(|_| !is_item), table()],
    };
    if text.is_empty() {
        // For an `Option`; other types do not accept it.
        values.insert(0, Some(Value::Null));
    }
    let is_string = matches!(natural, Value::Str(_));
    let mut forms: Vec<Form> = Vec::new();
    for value in values.into_iter().flatten() {
        if !forms.iter().any(|form| form.value.equals(&value)) {
            forms.push(Form { retyped: !is_string && !value.equals(&natural), value });
        }
    }
    forms
}
