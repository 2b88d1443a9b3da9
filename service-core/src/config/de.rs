//! Settings into the service's own type, by serde.
//!
//! Two tricky things. Text from the environment becomes what is asked for, so every `deserialize_…` looks at what it was
//! asked. And an error is made by code that knows neither the key nor whether its value is a secret: [`Reader::locate`]
//! turns it into a [`ConfigError`] on the way out, at the first reader that it passes, and cuts out what must not be
//! shown. A [`Secret`](crate::Secret) replaces every error from within by a constant one; the real one, without the
//! value, waits in [`Shared`].

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Unexpected, Visitor};

use super::env::variable_name;
use super::error::{ConfigError, Setting};
use super::nearest::nearest;
use super::value::{Node, REDACTED, Table, Value, is_secret};
use super::{Layer, Origin, file, keys, resolve};
use crate::secret::{MISFIT, NEWTYPE};

/// What all readers of one value share.
pub(super) struct Shared<'a> {
    service: &'a str,
    file: &'a str,
    /// Why the last `Secret` could not be read.
    misfit: RefCell<Option<ConfigError>>,
    /// Values of `Secret`s, whatever their keys.
    secrets: RefCell<Vec<String>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(service: &'a str, file: &'a str) -> Self {
        Self { service, file, misfit: RefCell::default(), secrets: RefCell::default() }
    }
}

/// An error on its way out.
#[derive(Debug)]
pub(super) enum Error {
    Message(String),
    Misfit {
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
            Self::Misfit { expected, .. } => write!(f, "expected {expected}"),
            Self::Missing(field) => write!(f, "`{field}` is missing"),
            Self::UnknownField { field, .. } => write!(f, "unknown key `{field}`"),
            Self::UnknownVariant { known, .. } => f.write_str(&one_of(known)),
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
        Self::Misfit { unexpected: unexpected.to_string(), expected: expected.to_string() }
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::Misfit { unexpected: format!("{length} items"), expected: expected.to_string() }
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
    pub(super) fn into_config(self) -> ConfigError {
        match self {
            Self::Located(error) => *error,
            // `locate` leaves no other.
            other => ConfigError::Settings { service: String::new(), problem: other.to_string() },
        }
    }
}

/// serde's words for what it expects, in those of a person who writes a file.
fn in_words(expected: &str) -> String {
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
        "struct Duration" => "a time, in seconds (30, 0.5) or with a unit (\"500ms\", \"5m\", \"1h 30m\")",
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("a nonzero ") => {
            return format!("{}, not 0", in_words(&other["a nonzero ".len()..]));
        }
        other => other,
    };
    words.to_owned()
}

fn one_of(known: &[&str]) -> String {
    let names: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((one, [])) => one.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// Reads one value.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    value: &'a Value,
    /// None at the root.
    origin: Option<&'a Arc<Origin>>,
    /// Dotted; empty at the root.
    path: String,
    secret: bool,
    /// Within a `Secret`.
    typed_secret: bool,
    shared: &'a Shared<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn root(value: &'a Value, shared: &'a Shared<'a>) -> Self {
        Self { value, origin: None, path: String::new(), secret: false, typed_secret: false, shared }
    }

    fn child(&self, key: &str, node: &'a Node) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        self.at(path, node, self.secret || is_secret(key))
    }

    fn item<'b>(&'b self, n: usize, node: &'b Node) -> Reader<'b> {
        self.at(format!("{}[{n}]", self.path), node, self.secret)
    }

    fn at<'b>(&self, path: String, node: &'b Node, secret: bool) -> Reader<'b>
    where
        'a: 'b,
    {
        let secret = secret || matches!(node.value, Value::Text { secret: true, .. });
        Reader {
            value: &node.value,
            origin: Some(&node.origin),
            path,
            secret,
            typed_secret: self.typed_secret,
            shared: self.shared,
        }
    }

    /// Gives an error its place, and takes out what must not be shown. An error that has its place keeps it.
    pub(super) fn locate(&self, error: Error) -> Error {
        if let Error::Located(_) = error {
            return error;
        }
        if matches!(&error, Error::Message(text) if text == MISFIT)
            && let Some(misfit) = self.shared.misfit.borrow_mut().take()
        {
            return Error::Located(Box::new(misfit));
        }
        let located = match self.origin {
            Some(origin) => self.describe(error, origin),
            None => self.describe_root(error),
        };
        Error::Located(Box::new(located))
    }

    fn describe(&self, error: Error, origin: &Origin) -> ConfigError {
        let setting = Setting::new(self.shared.service, self.path.clone(), origin);
        let leaf = !matches!(self.value, Value::List(_) | Value::Table(_));
        match error {
            Error::Misfit { unexpected, expected } => {
                let found = if leaf || self.secret { self.value.show(self.secret) } else { self.found(&unexpected) };
                ConfigError::Value { setting, found, expected: in_words(&expected) }
            }
            Error::UnknownVariant { variant, known } => {
                let found = if leaf { self.value.show(self.secret) } else { self.clean(&format!("{variant:?}")) };
                ConfigError::Value { setting, found, expected: one_of(known) }
            }
            Error::Missing(field) => self.missing(field, origin),
            Error::UnknownField { field, known } => self.unknown(&field, known, origin),
            other if self.secret => {
                drop(other);
                ConfigError::Value {
                    setting,
                    found: REDACTED.to_owned(),
                    expected: "a value that its type takes".to_owned(),
                }
            }
            other if leaf => {
                ConfigError::Conflict { setting, problem: format!("found {}: {other}", self.value.show(false)) }
            }
            other => ConfigError::Conflict { setting, problem: self.clean(&other.to_string()) },
        }
    }

    fn describe_root(&self, error: Error) -> ConfigError {
        let root = Origin { layer: Layer::Default, place: self.shared.file.to_owned() };
        match error {
            Error::Missing(field) => self.missing(field, &root),
            Error::UnknownField { field, known } => self.unknown(&field, known, &root),
            Error::Misfit { unexpected, expected } => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: format!("found {}, expected {}", self.found(&unexpected), in_words(&expected)),
            },
            Error::UnknownVariant { variant, known } => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: format!("found {}, expected {}", self.clean(&format!("{variant:?}")), one_of(known)),
            },
            other => ConfigError::Settings {
                service: self.shared.service.to_owned(),
                problem: self.clean(&other.to_string()),
            },
        }
    }

    fn missing(&self, field: &str, origin: &Origin) -> ConfigError {
        let service = self.shared.service.to_owned();
        if self.path.contains('[') {
            let problem = format!("`{field}` is missing");
            return ConfigError::Conflict { setting: Setting::new(&service, self.path.clone(), origin), problem };
        }
        let key = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        let variable = variable_name(&service, &key);
        ConfigError::Missing { service, key, file: self.shared.file.to_owned(), variable }
    }

    fn unknown(&self, field: &str, known: &'static [&'static str], origin: &Origin) -> ConfigError {
        let key = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        let origin = match self.value {
            Value::Table(table) => table.get(field).map_or(origin, |node| &node.origin),
            _ => origin,
        };
        let hint = if self.path.is_empty() { resolve::hint(field, known) } else { nested_hint(field, known) };
        ConfigError::UnknownKey { setting: Setting::new(self.shared.service, key, origin), hint }
    }

    /// serde's word for what it met somewhere below.
    fn found(&self, unexpected: &str) -> String {
        match unexpected {
            "map" | "sequence" => self.value.kind().to_owned(),
            other => self.clean(other),
        }
    }

    /// Somebody else's text, without the secrets that stand below here.
    fn clean(&self, text: &str) -> String {
        let mut secrets = self.shared.secrets.borrow().clone();
        self.value.secrets(self.secret, &mut secrets);
        // The longest first, so that none is left half cut.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut text = text.to_owned();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), REDACTED);
            // As it stands in a quoted string.
            text = text.replace(secret.escape_debug().to_string().as_str(), REDACTED);
        }
        text
    }

    /// Does the reading; an error leaves with its place.
    fn read<R>(&self, read: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        let result = match self.value {
            Value::Broken { variable, why } => Err(self.unreadable(variable, why)),
            _ => read(),
        };
        result.map_err(|error| {
            let error = self.locate(error);
            if let (true, Error::Located(located)) = (self.typed_secret, &error) {
                *self.shared.misfit.borrow_mut() = Some(ConfigError::clone(located));
            }
            error
        })
    }

    fn unreadable(&self, variable: &str, why: &str) -> Error {
        let Some(origin) = self.origin else { return Error::Message(why.to_owned()) };
        Error::Located(Box::new(ConfigError::Variable {
            setting: Setting::new(self.shared.service, self.path.clone(), origin),
            variable: variable.to_owned(),
            problem: why.to_owned(),
        }))
    }

    /// The value as it is.
    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => whole(*number, visitor),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Time(time) => visitor.visit_string(humantime::format_duration(*time).to_string()),
            Value::Str(text) => visitor.visit_str(text),
            Value::Text { text, .. } => guess(text, visitor),
            Value::Broken { variable, why } => Err(self.unreadable(variable, why)),
            Value::List(items) => self.list(items, visitor),
            Value::Table(table) => self.table(table, &[], visitor),
        }
    }

    fn list<'de, V: Visitor<'de>>(&self, items: &[Node], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { reader: self, items: items.iter().enumerate() })
    }

    fn table<'de, V: Visitor<'de>>(
        &self,
        table: &'a Table,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { reader: self, entries: table.iter(), value: None, fields })
    }

    fn number<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text { text, .. } => match (text.trim().parse(), text.trim().parse()) {
                (Ok(number), _) => whole(number, visitor),
                (Err(_), Ok(number)) => visitor.visit_f64(number),
                _ => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.any(visitor),
        }
    }

    fn text<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text { text, .. } => visitor.visit_str(text),
            _ => self.any(visitor),
        }
    }

    fn boolean<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text { text, .. } => match keys::boolean(text) {
                Some(value) => visitor.visit_bool(value),
                None => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.any(visitor),
        }
    }

    fn sequence<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        let (Value::Text { text, .. }, Some(origin)) = (self.value, self.origin) else { return self.any(visitor) };
        match keys::list_of(text) {
            Some(items) => {
                let items: Vec<Node> = items.into_iter().map(|value| Node::new(value, origin)).collect();
                self.list(&items, visitor)
            }
            None => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
        }
    }

    fn map<'de, V: Visitor<'de>>(&self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match (self.value, self.origin) {
            (Value::Table(table), _) => self.table(table, fields, visitor),
            (Value::Text { text, .. }, Some(origin)) if text.trim_start().starts_with('{') => {
                match file::parse_value(text.trim()) {
                    Some(value @ Value::Table(_)) => {
                        let node = Node::new(value, origin);
                        let reader = self.at(self.path.clone(), &node, self.secret);
                        reader.any(visitor)
                    }
                    _ => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
                }
            }
            _ => self.any(visitor),
        }
    }

    /// `Duration` is a struct to serde, and a time to people.
    fn duration<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        if let Value::Table(table) = self.value {
            return self.table(table, &[], visitor);
        }
        match keys::duration(self.value) {
            Some(time) => {
                let parts = [u64::from(time.subsec_nanos()), time.as_secs()];
                visitor.visit_seq(de::value::SeqDeserializer::new(parts.into_iter().rev()))
            }
            None => Err(Error::Misfit { unexpected: String::new(), expected: "struct Duration".to_owned() }),
        }
    }

    fn variant<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Str(text) | Value::Text { text, .. } => {
                visitor.visit_enum(de::value::StrDeserializer::<Error>::new(text))
            }
            Value::Table(table) if table.len() == 1 => {
                let entries = Entries { reader: self, entries: table.iter(), value: None, fields: &[] };
                visitor.visit_enum(de::value::MapAccessDeserializer::new(entries))
            }
            _ => Err(Error::Misfit {
                unexpected: self.value.kind().to_owned(),
                expected: "a string, or a table with one key".to_owned(),
            }),
        }
    }
}

/// A whole number, by the smallest method that takes it.
fn whole<'de, V: Visitor<'de>>(number: i128, visitor: V) -> Result<V::Value, Error> {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => visitor.visit_i64(number),
        (_, Ok(number)) => visitor.visit_u64(number),
        _ => visitor.visit_i128(number),
    }
}

/// Text without a type, read by something that takes anything: a number or a truth value where it looks exactly so.
fn guess<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Error> {
    match (text.parse::<bool>(), text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(value), ..) => visitor.visit_bool(value),
        (_, Ok(number), _) if number.to_string() == text => visitor.visit_i64(number),
        (.., Ok(number)) if format!("{number:?}") == text && number.is_finite() => visitor.visit_f64(number),
        _ => visitor.visit_str(text),
    }
}

fn nested_hint(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {}", one_of(known)),
    }
}

macro_rules! deserialize {
    ($($method:ident => $read:ident;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.read(|| self.$read(visitor))
        }
    )* };
}

impl<'de> de::Deserializer<'de> for &Reader<'_> {
    type Error = Error;

    deserialize! {
        deserialize_any => any;
        deserialize_bool => boolean;
        deserialize_i8 => number;
        deserialize_i16 => number;
        deserialize_i32 => number;
        deserialize_i64 => number;
        deserialize_i128 => number;
        deserialize_u8 => number;
        deserialize_u16 => number;
        deserialize_u32 => number;
        deserialize_u64 => number;
        deserialize_u128 => number;
        deserialize_f32 => number;
        deserialize_f64 => number;
        deserialize_char => text;
        deserialize_str => text;
        deserialize_string => text;
        deserialize_bytes => text;
        deserialize_byte_buf => text;
        deserialize_identifier => text;
        deserialize_seq => sequence;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.read(|| match self.value {
            Value::Null => visitor.visit_none(),
            Value::Text { text, .. } if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.read(|| match self.value {
            Value::Table(_) => visitor.visit_unit(),
            _ => self.any(visitor),
        })
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name != NEWTYPE {
            return self.read(|| visitor.visit_newtype_struct(self));
        }
        self.value.secrets(true, &mut self.shared.secrets.borrow_mut());
        let hidden = Reader { secret: true, typed_secret: true, ..self.clone() };
        self.read(|| visitor.visit_newtype_struct(&hidden))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.read(|| self.map(&[], visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.read(|| match (name, fields) {
            ("Duration", ["secs", "nanos"]) => self.duration(visitor),
            _ => self.map(fields, visitor),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.read(|| self.variant(visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items<'a, I> {
    reader: &'a Reader<'a>,
    items: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> de::SeqAccess<'de> for Items<'a, I> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((n, node)) = self.items.next() else { return Ok(None) };
        let item = self.reader.item(n, node);
        seed.deserialize(&item).map(Some).map_err(|error| item.locate(error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

struct Entries<'b, 'a, I> {
    reader: &'b Reader<'a>,
    entries: I,
    value: Option<(&'a str, &'a Node)>,
    /// The fields asked for; empty where any key will do.
    fields: &'static [&'static str],
}

impl<'de, 'a, I: Iterator<Item = (&'a String, &'a Node)>> de::MapAccess<'de> for Entries<'_, 'a, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, node));
        // Environment variables have no case: `BATCHSIZE` is the field `batchSize`.
        let name = match self.fields.iter().find(|field| field.eq_ignore_ascii_case(key)) {
            Some(field) if node.origin.layer == Layer::Environment && !self.fields.contains(&key.as_str()) => field,
            _ => key.as_str(),
        };
        let name = Value::Text { text: name.to_owned(), secret: false };
        // Of a key there is no place: the table's is given to the error.
        let reader = Reader { value: &name, ..Reader::root(&name, self.reader.shared) };
        seed.deserialize(Key(&reader)).map(Some).map_err(|error| self.reader.locate(error))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let Some((key, node)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        let child = self.reader.child(key, node);
        seed.deserialize(&child).map_err(|error| child.locate(error))
    }
}

/// A key of a table: text that becomes what is asked for, whose errors get their place from the table.
struct Key<'a>(&'a Reader<'a>);

impl<'de> de::Deserializer<'de> for Key<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.text(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.boolean(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.variant(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.number(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}
