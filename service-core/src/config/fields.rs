//! The names of the fields of a type, found by its `Deserialize`.
//!
//! A derived `Deserialize` passes the names of its fields to the deserializer before it reads the first one. The
//! deserializer here keeps the names and then fails. Types that are not read as a struct (maps, `#[serde(flatten)]`)
//! have no names.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The names of the fields, if the type has some.
pub(crate) fn fields<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    match T::deserialize(Fields) {
        Err(FieldNames(fields)) => fields,
        Ok(_) => None,
    }
}

struct Fields;

/// The "error" that contains the names.
#[derive(Debug)]
struct FieldNames(Option<&'static [&'static str]>);

impl fmt::Display for FieldNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the names of the fields were requested")
    }
}

impl std::error::Error for FieldNames {}

impl serde::de::Error for FieldNames {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

impl<'de> Deserializer<'de> for Fields {
    type Error = FieldNames;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, FieldNames> {
        Err(FieldNames(None))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, FieldNames> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, FieldNames> {
        Err(FieldNames(Some(fields)))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldNames> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "only its field names matter")]
    struct Settings {
        #[serde(default)]
        batch_size: u32,
        #[serde(rename = "to")]
        recipient: String,
    }

    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "only its field names matter")]
    struct Wrapped(Settings);

    #[test]
    fn a_struct_tells_its_fields() {
        assert_eq!(fields::<Settings>(), Some(&["batch_size", "to"][..]));
        assert_eq!(fields::<Option<Settings>>(), Some(&["batch_size", "to"][..]));
        assert_eq!(fields::<Wrapped>(), Some(&["batch_size", "to"][..]));
    }

    #[test]
    fn a_map_has_none() {
        assert_eq!(fields::<std::collections::HashMap<String, u32>>(), None);
        assert_eq!(fields::<()>(), None);
    }
}
