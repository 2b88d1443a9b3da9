//! [`Value`]: one value of any layer, and showing it.
//!
//! The tricky part is `Text`: environment variables have no types, so their text is converted to the requested type,
//! while a string in a file stays a string. [`Value`] and [`Node`] do not implement `Debug`, which would show secrets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layer, Origin};
use super::secrets::{is_secret, redact_url};
use crate::humanize;
use crate::service::secret::REDACTED;

/// A value, with the type in which its layer has it.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A time from code. Other layers have numbers or strings.
    Time(Duration),
    /// A string from a layer that has types.
    Str(String),
    /// Text without a type, from the environment. `secret`: it has a `${…}` with the name of a secret.
    Text {
        text: String,
        secret: bool,
    },
    /// A `${…}` that cannot be read. Text that is not the name of a variable could be a secret; then `variable` is `…`.
    Broken {
        variable: String,
        why: &'static str,
    },
    List(Vec<Node>),
    Table(Table),
    /// A value whose type is not known yet, with a number. Exists only while settings are read.
    Probe {
        number: usize,
        value: Box<Value>,
    },
}

/// Keys and values.
pub(crate) type Table = BTreeMap<String, Node>;

/// Whether two tables have the same keys and values, wherever they are set.
pub(crate) fn same_values(ours: &Table, theirs: &Table) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|((a, ours), (b, theirs))| a == b && ours.value.equals(&theirs.value))
}

/// A value and its place.
#[derive(Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Arc<Origin>,
}

impl Value {
    /// Shows the value in a message, or `•••` if it is `secret`.
    pub(crate) fn show(&self, secret: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, secret);
        match out.char_indices().nth(200) {
            Some((cut, _)) => format!("{}…", &out[..cut]),
            None => out,
        }
    }

    fn write(&self, out: &mut String, secret: bool) {
        if secret {
            out.push_str(REDACTED);
            return;
        }
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Null => write!(out, "null"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Int(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value:?}"),
            Self::Time(value) => write!(out, "{}", humanize::exact(*value)),
            Self::Text { secret: true, .. } => write!(out, "{REDACTED}"),
            Self::Str(text) | Self::Text { text, .. } => write!(out, "{:?}", redact_url(text)),
            Self::Broken { variable, .. } => write!(out, "\"${{{variable}}}\""),
            Self::List(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { ", " });
                    item.value.write(out, false);
                }
                write!(out, "]")
            }
            Self::Table(table) => {
                out.push('{');
                for (n, (key, item)) in table.iter().enumerate() {
                    let _ = write!(out, "{}{key} = ", if n == 0 { " " } else { ", " });
                    item.value.write(out, is_secret(key));
                }
                write!(out, " }}")
            }
            Self::Probe { value, .. } => {
                value.write(out, secret);
                Ok(())
            }
        };
    }

    /// Makes each part a secret.
    pub(super) fn into_secret(self) -> Self {
        let inside = |node: Node| Node { value: node.value.into_secret(), origin: node.origin };
        match self {
            Self::List(items) => Self::List(items.into_iter().map(inside).collect()),
            Self::Table(table) => Self::Table(table.into_iter().map(|(key, node)| (key, inside(node))).collect()),
            Self::Str(text) => Self::Text { text, secret: true },
            other => Self::Text { text: other.show(false), secret: true },
        }
    }

    /// Whether the values are equal, wherever they are set.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(ours), Self::List(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.value.equals(&b.value))
            }
            (Self::Table(ours), Self::Table(theirs)) => same_values(ours, theirs),
            (Self::Float(ours), Self::Float(theirs)) => ours == theirs || ours.is_nan() && theirs.is_nan(),
            (ours, theirs) => ours == theirs,
        }
    }

    /// The kind of the value, for messages that do not quote it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Time(_) => "a time",
            Self::Str(_) | Self::Text { .. } | Self::Broken { .. } => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Probe { value, .. } => value.kind(),
        }
    }
}

impl Node {
    pub(crate) fn new(value: impl Into<Value>, origin: &Arc<Origin>) -> Self {
        let mut node = Self { value: value.into(), origin: Arc::clone(origin) };
        node.place_at(origin);
        node
    }

    /// Copies the value, with another origin for each part.
    pub(super) fn with_origins(&self, of: &impl Fn(&Origin) -> Arc<Origin>) -> Self {
        let value = match &self.value {
            Value::List(items) => Value::List(items.iter().map(|item| item.with_origins(of)).collect()),
            Value::Table(table) => {
                Value::Table(table.iter().map(|(key, item)| (key.clone(), item.with_origins(of))).collect())
            }
            other => other.clone(),
        };
        Self { value, origin: of(&self.origin) }
    }

    fn place_at(&mut self, origin: &Arc<Origin>) {
        self.origin = Arc::clone(origin);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.place_at(origin)),
            Value::Table(table) => table.values_mut().for_each(|item| item.place_at(origin)),
            _ => {}
        }
    }
}

/// Inserts a value at a path of keys (`["smtp", "port"]`). The error is the key that has another value already.
pub(crate) fn insert(table: &mut Table, path: &[&str], node: Node) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    if rest.is_empty() {
        return match table.insert((*first).to_owned(), node) {
            None => Ok(()),
            Some(_) => Err((*first).to_owned()),
        };
    }
    let origin = Arc::clone(&node.origin);
    let below = table.entry((*first).to_owned()).or_insert(Node { value: Value::Table(Table::new()), origin });
    match &mut below.value {
        Value::Table(inner) => insert(inner, rest, node),
        _ => Err((*first).to_owned()),
    }
}

/// A value for `.set("email_sender.batch_size", 10)`. Numbers, strings, booleans, durations, lists and JSON convert
/// into it.
#[derive(Clone)]
pub struct SettingValue(pub(crate) Value);

impl std::fmt::Debug for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REDACTED)
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $into:expr;)*) => { $(
        impl From<$type> for SettingValue {
            fn from($value: $type) -> Self {
                Self($into)
            }
        }
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $into
            }
        }
    )* };
}

from! {
    bool => |value| Value::Bool(value);
    i8 => |value| Value::Int(value.into());
    i16 => |value| Value::Int(value.into());
    i32 => |value| Value::Int(value.into());
    i64 => |value| Value::Int(value.into());
    u8 => |value| Value::Int(value.into());
    u16 => |value| Value::Int(value.into());
    u32 => |value| Value::Int(value.into());
    u64 => |value| Value::Int(value.into());
    usize => |value| Value::Int(value as i128);
    f32 => |value| Value::Float(value.into());
    f64 => |value| Value::Float(value);
    &str => |value| Value::Str(value.to_owned());
    String => |value| Value::Str(value);
    &String => |value| Value::Str(value.clone());
    Duration => |value| Value::Time(value);
    serde_json::Value => |value| from_json(value);
}

impl<T: Into<Self>> From<Vec<T>> for SettingValue {
    fn from(items: Vec<T>) -> Self {
        Self(list(items.into_iter().map(|item| item.into().0)))
    }
}

impl<T: Into<Self>, const N: usize> From<[T; N]> for SettingValue {
    fn from(items: [T; N]) -> Self {
        Self(list(items.into_iter().map(|item| item.into().0)))
    }
}

impl<T: Into<Self>> From<Option<T>> for SettingValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self(Value::Null), Into::into)
    }
}

impl From<SettingValue> for Value {
    fn from(value: SettingValue) -> Self {
        value.0
    }
}

/// A list. [`Node::new`] sets the place of its items.
pub(crate) fn list(items: impl IntoIterator<Item = Value>) -> Value {
    let nowhere = Origin::new(Layer::Default, "");
    Value::List(items.into_iter().map(|value| Node { value, origin: Arc::clone(&nowhere) }).collect())
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match (number.as_i128(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(value)) => Value::Float(value),
            (None, None) => Value::Str(number.to_string()),
        },
        serde_json::Value::String(text) => Value::Str(text),
        serde_json::Value::Array(items) => list(items.into_iter().map(from_json)),
        serde_json::Value::Object(object) => {
            let nowhere = Origin::new(Layer::Default, "");
            let entry = |(key, json)| (key, Node { value: from_json(json), origin: Arc::clone(&nowhere) });
            Value::Table(object.into_iter().map(entry).collect())
        }
    }
}
