//! Settings into the service's own type, by serde.
//!
//! Two tricky things. Text from the environment becomes what is asked for, so every `deserialize_…` looks at what it was
//! asked. And an error is made by code that knows neither the key nor whether its value is a secret: [`Reader::locate`]
//! turns it into a [`ConfigError`] on the way out, at the first reader that it passes, and cuts out what must not be
//! shown. A [`Secret`](crate::Secret) replaces every error from within by a constant one; the real one, without the
//! value, waits in [`Shared`].

mod access;
mod errors;
mod locate;

use std::cell::RefCell;
use std::sync::Arc;

use serde::de::{self, Unexpected, Visitor};

use self::access::{Entries, Items};
use self::errors::Error;
use super::errors::ConfigError;
use super::layers::Origin;
use super::values::{Node, Table, Value, is_secret};
use super::{coercion, toml};
use crate::humanize;
use crate::service::secret::NEWTYPE;

/// What all readers of one value share.
pub(super) struct Shared<'a> {
    service: &'a str,
    file: &'a str,
    /// Why the last `Secret` could not be read.
    invalid: RefCell<Option<ConfigError>>,
    /// Values of `Secret`s, whatever their keys.
    secrets: RefCell<Vec<String>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(service: &'a str, file: &'a str) -> Self {
        Self { service, file, invalid: RefCell::default(), secrets: RefCell::default() }
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

    /// Does the reading; an error leaves with its place.
    fn read<R>(&self, read: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        let result = match self.value {
            Value::Broken { variable, why } => Err(self.unreadable(variable, why)),
            _ => read(),
        };
        result.map_err(|error| {
            let error = self.locate(error);
            if let (true, Error::Located(located)) = (self.typed_secret, &error) {
                *self.shared.invalid.borrow_mut() = Some(ConfigError::clone(located));
            }
            error
        })
    }

    /// The value as it is.
    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => whole(*number, visitor),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Time(time) => visitor.visit_string(humanize::exact(*time)),
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
            Value::Text { text, .. } => match coercion::boolean(self.value) {
                Some(value) => visitor.visit_bool(value),
                None => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.any(visitor),
        }
    }

    fn sequence<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        let (Value::Text { text, .. }, Some(origin)) = (self.value, self.origin) else { return self.any(visitor) };
        match coercion::list(text) {
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
                match toml::parse_value(text.trim()) {
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
        match coercion::duration(self.value) {
            Some(time) => {
                let parts = [u64::from(time.subsec_nanos()), time.as_secs()];
                visitor.visit_seq(de::value::SeqDeserializer::new(parts.into_iter().rev()))
            }
            None => Err(Error::InvalidType { unexpected: String::new(), expected: "struct Duration".to_owned() }),
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
            _ => Err(Error::InvalidType {
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
