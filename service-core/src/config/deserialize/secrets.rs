//! The secrets in a value, so that they can be removed from messages of other code.

use crate::config::coercion;
use crate::config::secrets::{in_text, is_secret};
use crate::config::values::Value;

/// Collects the secrets in a value. `secret`: the whole value is one.
pub(super) fn collect(value: &Value, secret: bool, found: &mut Vec<String>) {
    match value {
        Value::List(items) => items.iter().for_each(|item| collect(&item.value, secret, found)),
        Value::Table(table) => {
            table.iter().for_each(|(key, item)| collect(&item.value, secret || is_secret(key), found));
        }
        Value::Text { text, secret: own } => {
            let secret = secret || *own;
            of_text(text, secret, found);
            // Other code has the items of the list or table that the text can be.
            let items = coercion::items(text).into_iter().chain(coercion::table(text).map(Value::Table));
            let is_whole = |item: &Value| matches!(item, Value::Text { text: item, .. } if item == text);
            items.filter(|item| !is_whole(item)).for_each(|item| collect(&item, secret, found));
        }
        Value::Str(text) => of_text(text, secret, found),
        Value::Int(_) | Value::Float(_) if secret => found.push(value.show(false)),
        _ => {}
    }
}

fn of_text(text: &str, secret: bool, found: &mut Vec<String>) {
    if secret {
        found.push(text.to_owned());
    } else {
        found.extend(in_text(text).map(str::to_owned));
    }
    // Other code can parse the text.
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text)
        && (json.is_array() || json.is_object())
    {
        collect(&Value::from(json), secret, found);
    }
}
