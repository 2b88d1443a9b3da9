//! The forms that a value can have for an expected type.

use std::time::Duration;

use crate::config::coercion;
use crate::config::values::{Value, list};

/// A form of a value.
pub(super) struct Form {
    pub(super) value: Value,
    /// Text that would have another type in the file.
    pub(super) retyped: bool,
}

/// The forms of a value for an expected type, the most likely first. An item of a list is only split into items if its
/// type is known to be a list: else there would be no end.
pub(super) fn forms(value: &Value, expected: &str, is_item: bool) -> Vec<Form> {
    if expected == "struct Duration" {
        let parts = |time: Duration| list([time.as_secs().into(), time.subsec_nanos().into()]);
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
    let mut values = match expected.strip_prefix("a nonzero ").unwrap_or(expected) {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" | "f32" | "f64" => {
            vec![number()]
        }
        "a boolean" => vec![boolean()],
        "a sequence" => vec![items()],
        "a map" => vec![table()],
        "unit" => Vec::new(),
        "a string" | "a character" | "variant identifier" => vec![Some(string())],
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
