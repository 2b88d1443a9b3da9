//! The path of a value among the settings: `smtp.hosts[1]`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::config::coercion;
use crate::config::layers::Origin;
use crate::config::secrets::is_secret;
use crate::config::values::Value;

/// One step from a table or list to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

pub(super) type Path = Vec<Step>;

/// The path as people write it.
pub(super) fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        // Writing to a string cannot fail.
        let _ = match step {
            Step::Key(key) if text.is_empty() => write!(text, "{key}"),
            Step::Key(key) => write!(text, ".{key}"),
            Step::Item(n) => write!(text, "[{n}]"),
        };
    }
    text
}

/// The value at a path, or as much of the way as there is.
pub(super) struct Found<'a> {
    pub(super) value: Cow<'a, Value>,
    /// `None` at the root, which stands in several layers.
    pub(super) origin: Option<&'a Arc<Origin>>,
    /// By a key on the way, or by the variable that it was read from.
    pub(super) secret: bool,
}

pub(super) fn find<'a>(root: &'a Value, path: &[Step]) -> Found<'a> {
    let (mut value, mut origin, mut secret) = (root, None, false);
    let mut rest = path;
    while let Some((step, after)) = rest.split_first() {
        let node = match (value, step) {
            (Value::Table(table), Step::Key(key)) => table.get(key),
            (Value::List(items), Step::Item(n)) => items.get(*n),
            _ => None,
        };
        let Some(node) = node else { break };
        secret |= matches!(step, Step::Key(key) if is_secret(key));
        secret |= matches!(node.value, Value::Text { secret: true, .. });
        (value, origin, rest) = (&node.value, Some(&node.origin), after);
    }
    // What is left of the way is within a text.
    let value = rest.iter().fold(Cow::Borrowed(value), |value, step| within(&value, step).map_or(value, Cow::Owned));
    Found { value, origin, secret }
}

/// A part of a value; text is the list or table that is written in it.
fn within(value: &Value, step: &Step) -> Option<Value> {
    match (value, step) {
        (Value::Text { text, .. }, Step::Item(n)) => coercion::items(text).into_iter().nth(*n),
        (Value::Text { text, .. }, Step::Key(key)) => coercion::table(text)?.remove(key).map(|node| node.value),
        (Value::Table(table), Step::Key(key)) => table.get(key).map(|node| node.value.clone()),
        (Value::List(items), Step::Item(n)) => items.get(*n).map(|node| node.value.clone()),
        _ => None,
    }
}

/// The place of the value at a path, to be changed.
pub(super) fn find_mut<'a>(root: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |value, step| match (value, step) {
        (Value::Table(table), Step::Key(key)) => table.get_mut(key).map(|node| &mut node.value),
        (Value::List(items), Step::Item(n)) => items.get_mut(*n).map(|node| &mut node.value),
        _ => None,
    })
}
