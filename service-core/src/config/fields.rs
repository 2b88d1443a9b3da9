//! Which fields a settings type has, asked of its `Deserialize` without having a value of it.
//!
//! A derived `Deserialize` of a struct hands its field names to the deserializer before anything is read; the probe
//! takes them and stops. Types that do not (maps, structs with `#[serde(flatten)]`) are simply not known.

use std::fmt;

use serde::de::{self, DeserializeOwned, Visitor};

/// Names of the fields of `T`, aliases included; `None` where `T` does not tell.
#[doc(hidden)]
#[must_use]
pub fn probe_fields<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    match T::deserialize(Probe) {
        Err(Answer(fields)) => fields,
        Ok(_) => None,
    }
}

/// The deserializer. It has nothing to give, so that every path ends in an [`Answer`].
struct Probe;

#[derive(Debug)]
struct Answer(Option<&'static [&'static str]>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only asked for the fields")
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

impl<'de> de::Deserializer<'de> for Probe {
    type Error = Answer;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answer> {
        Err(Answer(None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer(Some(fields)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Answer> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        visitor.visit_some(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::HashMap;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[allow(dead_code, reason = "only its Deserialize is asked")]
    struct Plain {
        batch_size: u32,
        #[serde(alias = "dir")]
        folder: String,
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its Deserialize is asked")]
    struct Flat {
        #[serde(flatten)]
        plain: Plain,
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its Deserialize is asked")]
    struct Wrapped(Plain);

    #[test]
    fn a_struct_tells_its_fields_and_a_map_does_not() {
        let fields: &[&str] = &["batchSize", "dir", "folder"];
        assert_eq!(probe_fields::<Plain>(), Some(fields));
        assert_eq!(probe_fields::<Wrapped>(), Some(fields));
        assert_eq!(probe_fields::<Option<Plain>>(), Some(fields));
        assert_eq!(probe_fields::<Flat>(), None);
        assert_eq!(probe_fields::<HashMap<String, String>>(), None);
        assert_eq!(probe_fields::<()>(), None);
    }
}
