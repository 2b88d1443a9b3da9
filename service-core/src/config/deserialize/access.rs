//! Lists and tables, item by item.

use serde::de::{self, DeserializeSeed, Visitor};

use super::Reader;
use super::errors::Error;
use crate::config::layers::Layer;
use crate::config::values::{Node, Value};

/// The items of a list.
pub(super) struct Items<'a, I> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) items: I,
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

/// The keys and values of a table.
pub(super) struct Entries<'b, 'a, I> {
    pub(super) reader: &'b Reader<'a>,
    pub(super) entries: I,
    pub(super) value: Option<(&'a str, &'a Node)>,
    /// The fields asked for; empty where any key will do.
    pub(super) fields: &'static [&'static str],
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

macro_rules! numbers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.0.number(visitor)
        }
    )* };
}

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

    numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}
