//! [`Reader`]: a deserializer of one value. Every `deserialize_…` method converts text from the environment to the type
//! that it stands for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Unexpected, Visitor};

use super::errors::{Error, Problem, probe_bytes};
use super::path::{Path, Step};
use super::secrets;
use crate::config::coercion;
use crate::config::layers::Origin;
use crate::config::values::{Node, Table, Value};
use crate::humanize;
use crate::service::secret::NEWTYPE;

/// Reads a value as the type, and returns its number among the values read so far. Only this function depends on the
/// type, so everything else is compiled once.
pub(super) type Read<'a> = dyn Fn(&Reader<'_>) -> Result<Nth, Error> + 'a;

pub(super) type Nth = usize;

/// The state that all readers of one attempt share.
#[derive(Default)]
pub(super) struct ReaderState {
    complete: bool,
    /// The last error from inside a `Secret`, which replaces it by a constant one.
    of_secret: RefCell<Option<Error>>,
    typed_secrets: RefCell<Vec<String>>,
    buffered: Cell<bool>,
    probes: RefCell<BTreeSet<usize>>,
    tags: RefCell<BTreeSet<usize>>,
}

impl ReaderState {
    pub(super) fn new(complete: bool) -> Self {
        Self { complete, ..Self::default() }
    }

    /// The values of fields of type `Secret`.
    pub(super) fn typed_secrets(&self) -> Vec<String> {
        self.typed_secrets.take()
    }

    /// Whether a value was buffered, or read by a type that accepts any value.
    pub(super) fn has_buffered(&self) -> bool {
        self.buffered.get()
    }

    /// The probes among those values.
    pub(super) fn probes(&self) -> BTreeSet<usize> {
        self.probes.take()
    }

    /// The probes that were read as the name of a variant, in an enum with a `tag`.
    pub(super) fn tags(&self) -> BTreeSet<usize> {
        self.tags.take()
    }
}

/// Reads one value.
pub(super) struct Reader<'a> {
    value: &'a Value,
    probe: Option<usize>,
    /// `None` at the root.
    origin: Option<&'a Arc<Origin>>,
    position: Position<'a>,
    /// Inside a `Secret`.
    secret: bool,
    shared: &'a ReaderState,
}

/// The position of a value in the settings.
#[derive(Clone, Copy)]
enum Position<'a> {
    Root,
    Value(&'a Reader<'a>, &'a str),
    Item(&'a Reader<'a>, usize),
    /// A key of this table. Its errors have the path of the table.
    Key(&'a Reader<'a>),
}

impl<'a> Reader<'a> {
    pub(super) fn root(value: &'a Value, shared: &'a ReaderState) -> Self {
        Self { value, probe: None, origin: None, position: Position::Root, secret: false, shared }
    }

    fn child<'b>(&'b self, node: &'b Node, position: Position<'b>) -> Reader<'b> {
        let (value, probe) = match &node.value {
            Value::Probe { number, value } => (&**value, Some(*number)),
            value => (value, None),
        };
        Reader { value, probe, origin: Some(&node.origin), position, secret: self.secret, shared: self.shared }
    }

    fn path(&self) -> Path {
        let (mut path, last) = match self.position {
            Position::Root => return Path::new(),
            Position::Key(table) => return table.path(),
            Position::Value(table, key) => (table.path(), Step::Key(key.to_owned())),
            Position::Item(list, n) => (list.path(), Step::Item(n)),
        };
        path.push(last);
        path
    }

    /// Reads, and adds the path to an error that has none.
    fn read<R>(&self, read: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        let result = match self.value {
            Value::Broken { variable, why } => Err(Problem::Unreadable { variable: variable.clone(), why }.into()),
            _ => read(),
        };
        result.map_err(|error| self.locate(error))
    }

    fn locate(&self, error: Error) -> Error {
        let hidden = if error.is_of_secret() { self.shared.of_secret.take() } else { None };
        let mut error = hidden.unwrap_or(error);
        error.secret |= self.secret;
        if error.path.is_none() {
            error.path = Some(self.path());
        }
        if self.secret {
            self.shared.of_secret.replace(Some(error.clone()));
        }
        error
    }

    /// Visits the value in its own type.
    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        visit(self.value, self, visitor)
    }

    /// Visits the value for something that requests no type: a buffer, or a type that accepts any value.
    fn untyped<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        if let Position::Key(_) = self.position {
            return self.any(visitor);
        }
        if !matches!(self.value, Value::List(_) | Value::Table(_)) {
            self.shared.buffered.set(true);
        }
        match (self.probe, self.value) {
            (Some(probe), _) => {
                self.shared.probes.borrow_mut().insert(probe);
                visitor.visit_bytes(&probe_bytes(probe))
            }
            (None, Value::Text { text, .. }) => visit(&coercion::as_in_file(text), self, visitor),
            _ => self.any(visitor),
        }
    }

    /// Visits a key, or the tag of an enum.
    fn identifier<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        self.shared.tags.borrow_mut().extend(self.probe);
        self.any(visitor)
    }

    fn list<'de, V: Visitor<'de>>(&self, items: &[Node], visitor: V) -> Result<V::Value, Error> {
        let mut access = Items { reader: self, items: items.iter().enumerate() };
        let value = visitor.visit_seq(&mut access)?;
        match access.items.len() {
            0 => Ok(value),
            // In the terms of serde for a buffered list.
            left => {
                let expected = format!("{} elements in sequence", items.len() - left);
                Err(de::Error::invalid_length(items.len(), &expected.as_str()))
            }
        }
    }

    fn table<'de, V: Visitor<'de>>(&self, table: &Table, names: Names, visitor: V) -> Result<V::Value, Error> {
        let complete = self.shared.complete && !names.is_empty() && !matches!(self.position, Position::Root);
        visitor.visit_map(Entries { reader: self, entries: table.iter(), value: None, names, complete })
    }

    fn number<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text { text, .. } => match (text.trim().parse(), text.trim().parse(), text.trim().parse()) {
                (Ok(number), ..) => whole(number, visitor),
                (_, Ok(number), _) => visitor.visit_u128(number),
                (.., Ok(number)) => visitor.visit_f64(number),
                _ => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.any(visitor),
        }
    }

    fn boolean<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match (self.value, coercion::boolean(self.value)) {
            (_, Some(flag)) => visitor.visit_bool(flag),
            (Value::Text { text, .. }, None) => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            _ => self.any(visitor),
        }
    }

    fn sequence<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match (self.value, self.origin) {
            (Value::Text { text, .. }, Some(origin)) => {
                self.request("a sequence")?;
                let items: Vec<Node> = coercion::items(text).into_iter().map(|item| Node::new(item, origin)).collect();
                self.list(&items, visitor)
            }
            _ => self.any(visitor),
        }
    }

    fn map<'de, V: Visitor<'de>>(&self, names: Names, visitor: V) -> Result<V::Value, Error> {
        match (self.value, self.table_of_text()?) {
            (Value::Table(table), _) => self.table(table, names, visitor),
            (_, Some(table)) => self.table(&table, names, visitor),
            _ => self.any(visitor),
        }
    }

    /// The inline table that is the text of the value.
    fn table_of_text(&self) -> Result<Option<Table>, Error> {
        let (Value::Text { text, .. }, Some(origin)) = (self.value, self.origin) else { return Ok(None) };
        let Some(table) = coercion::table(text) else { return Ok(None) };
        self.request("a map")?;
        Ok(Some(table.into_iter().map(|(key, node)| (key, Node::new(node.value, origin))).collect()))
    }

    /// In a search, requests the type of a text that is split into several values: they become probes.
    fn request(&self, expected: &str) -> Result<(), Error> {
        let Some(probe) = self.probe else { return Ok(()) };
        // If the type drops the error, the value counts as unread.
        self.shared.probes.borrow_mut().insert(probe);
        Err(Error::request(probe, expected))
    }

    /// Visits a time as `Duration`, which is a struct in serde.
    fn duration<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match coercion::duration(self.value) {
            Some(time) => {
                let parts = [time.as_secs(), u64::from(time.subsec_nanos())];
                visitor.visit_seq(de::value::SeqDeserializer::new(parts.into_iter()))
            }
            None => match self.value {
                Value::Table(table) => self.table(table, &[], visitor),
                other => {
                    let (unexpected, expected) = (other.kind().to_owned(), "struct Duration".to_owned());
                    Err(Problem::InvalidType { unexpected, expected }.into())
                }
            },
        }
    }

    fn variant<'de, V: Visitor<'de>>(&self, names: Names, visitor: V) -> Result<V::Value, Error> {
        match (self.value, &self.table_of_text()?) {
            (Value::Table(table), _) | (_, Some(table)) if of_highest_layer(table).count() == 1 => {
                let entries = of_highest_layer(table);
                let entries = Entries { reader: self, entries, value: None, names, complete: false };
                visitor.visit_enum(entries)
            }
            (Value::Str(text) | Value::Text { text, .. }, None) => {
                visitor.visit_enum(de::value::StrDeserializer::<Error>::new(text))
            }
            (other, _) => {
                let expected = "a string, or a table with one key".to_owned();
                Err(Problem::InvalidType { unexpected: other.kind().to_owned(), expected }.into())
            }
        }
    }
}

/// The variants that the highest layer sets. Layers are merged key by key, but another variant in a later layer
/// replaces the one below.
fn of_highest_layer(table: &Table) -> impl Iterator<Item = (&String, &Node)> {
    fn order(node: &Node) -> u32 {
        match &node.value {
            Value::Table(table) => table.values().map(order).max().unwrap_or(node.origin.order),
            _ => node.origin.order,
        }
    }
    let highest = table.values().map(order).max();
    table.iter().filter(move |(_, node)| Some(order(node)) == highest)
}

/// Visits a value in its own type.
fn visit<'de, V: Visitor<'de>>(value: &Value, place: &Reader<'_>, visitor: V) -> Result<V::Value, Error> {
    match value {
        Value::Null => visitor.visit_unit(),
        Value::Bool(value) => visitor.visit_bool(*value),
        Value::Int(number) => whole(*number, visitor),
        Value::Float(number) => visitor.visit_f64(*number),
        Value::Time(time) => visitor.visit_string(humanize::exact(*time)),
        Value::Str(text) | Value::Text { text, .. } => visitor.visit_str(text),
        Value::Broken { variable, why } => Err(Problem::Unreadable { variable: variable.clone(), why }.into()),
        Value::List(items) => place.list(items, visitor),
        Value::Table(table) => place.table(table, &[], visitor),
        Value::Probe { value, .. } => visit(value, place, visitor),
    }
}

/// Visits a whole number by the smallest method that accepts it.
fn whole<'de, V: Visitor<'de>>(number: i128, visitor: V) -> Result<V::Value, Error> {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => visitor.visit_i64(number),
        (_, Ok(number)) => visitor.visit_u64(number),
        _ => visitor.visit_i128(number),
    }
}

/// The names of the fields or variants; empty if any key is accepted.
type Names = &'static [&'static str];

/// The items of a list.
struct Items<'a, I> {
    reader: &'a Reader<'a>,
    items: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> de::SeqAccess<'de> for Items<'a, I> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((n, node)) = self.items.next() else { return Ok(None) };
        let item = self.reader.child(node, Position::Item(self.reader, n));
        seed.deserialize(&item).map(Some).map_err(|error| item.locate(error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

/// The keys and values of a table.
struct Entries<'a, I> {
    reader: &'a Reader<'a>,
    entries: I,
    value: Option<(&'a str, &'a Node)>,
    names: Names,
    /// Every key must be one of the names.
    complete: bool,
}

impl<'de, 'a, I: Iterator<Item = (&'a String, &'a Node)>> de::MapAccess<'de> for Entries<'a, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, node));
        // Names of environment variables have no case: `BATCHSIZE` is the field `batchSize`.
        let name = match self.names.iter().find(|name| node.origin.layer.is_meant(key, name)) {
            Some(name) if !self.names.contains(&key.as_str()) => name,
            _ => key.as_str(),
        };
        if self.complete && !self.names.contains(&name) {
            return Err(de::Error::unknown_field(name, self.names));
        }
        let name = Value::Text { text: name.to_owned(), secret: false };
        let key =
            Reader { position: Position::Key(self.reader), probe: None, origin: None, value: &name, ..*self.reader };
        seed.deserialize(&key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let Some((key, node)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        let child = self.reader.child(node, Position::Value(self.reader, key));
        seed.deserialize(&child).map_err(|error| child.locate(error))
    }
}

/// A table with one key: the variant and its content.
impl<'de, 'a, I: Iterator<Item = (&'a String, &'a Node)>> de::EnumAccess<'de> for Entries<'a, I> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<K: DeserializeSeed<'de>>(mut self, seed: K) -> Result<(K::Value, Self), Error> {
        match de::MapAccess::next_key_seed(&mut self, seed)? {
            Some(variant) => Ok((variant, self)),
            None => Err(de::Error::custom("a variant is missing")),
        }
    }
}

impl<'de, 'a, I: Iterator<Item = (&'a String, &'a Node)>> de::VariantAccess<'de> for Entries<'a, I> {
    type Error = Error;

    fn unit_variant(mut self) -> Result<(), Error> {
        de::MapAccess::next_value(&mut self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value, Error> {
        de::MapAccess::next_value_seed(&mut self, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.sequence(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: Names, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.map(fields, visitor))
    }
}

impl<'a, I> Entries<'a, I> {
    /// Reads the value of the current key.
    fn content<R>(self, read: impl FnOnce(&Reader<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let Some((key, node)) = self.value else { return Err(de::Error::custom("a value without a key")) };
        let child = self.reader.child(node, Position::Value(self.reader, key));
        child.read(|| read(&child))
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
        deserialize_any => untyped;
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
        deserialize_char => any;
        deserialize_str => any;
        deserialize_string => any;
        deserialize_bytes => any;
        deserialize_byte_buf => any;
        deserialize_identifier => identifier;
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
        secrets::collect(self.value, true, &mut self.shared.typed_secrets.borrow_mut());
        let hidden = Reader { secret: true, ..*self };
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
        fields: Names,
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
        variants: Names,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.read(|| self.variant(variants, visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}
