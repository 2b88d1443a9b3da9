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

/// Shows a path.
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

/// The value at a path, or the last one on the way to it.
pub(super) struct Located<'a> {
    pub(super) value: Cow<'a, Value>,
    /// `None` at the root, which is merged from several layers.
    pub(super) origin: Option<&'a Arc<Origin>>,
    /// By a key on the path, or by the variable that it has.
    pub(super) secret: bool,
}

pub(super) fn find<'a>(root: &'a Value, path: &[Step]) -> Located<'a> {
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
    // The rest of the path is inside of a text.
    secret |= rest.iter().any(|step| matches!(step, Step::Key(key) if is_secret(key)));
    let value = rest.iter().fold(Cow::Borrowed(value), |value, step| within(&value, step).map_or(value, Cow::Owned));
    Located { value, origin, secret }
}

/// A part of a value. Text counts as the list or table that it contains.
fn within(value: &Value, step: &Step) -> Option<Value> {
    match (value, step) {
        (Value::Text { text, .. }, Step::Item(n)) => coercion::items(text).into_iter().nth(*n),
        (Value::Text { text, .. }, Step::Key(key)) => coercion::table(text)?.remove(key).map(|node| node.value),
        (Value::Table(table), Step::Key(key)) => table.get(key).map(|node| node.value.clone()),
        (Value::List(items), Step::Item(n)) => items.get(*n).map(|node| node.value.clone()),
        _ => None,
    }
}

/// The value at a path, to be changed.
pub(super) fn find_mut<'a>(root: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |value, step| match (value, step) {
        (Value::Table(table), Step::Key(key)) => table.get_mut(key).map(|node| &mut node.value),
        (Value::List(items), Step::Item(n)) => items.get_mut(*n).map(|node| &mut node.value),
        _ => None,
    })
}
