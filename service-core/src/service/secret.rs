//! [`Secret`]: a value that is never shown.
//!
//! The tricky part is deserializing one: serde's errors quote the value. A `Secret` returns a constant error instead.
//! This crate's own deserializer recognises the type by its name, and reports the place and what was expected.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{
    BoolDeserializer, BytesDeserializer, F64Deserializer, I64Deserializer, MapAccessDeserializer,
    SeqAccessDeserializer, StrDeserializer, U64Deserializer, UnitDeserializer,
};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// What is shown in place of a secret.
pub(crate) const REDACTED: &str = "•••";
/// The name by which the deserializer of settings recognises a secret.
pub(crate) const NEWTYPE: &str = "$service_core::Secret";
/// The whole text of an error inside a secret.
pub(crate) const INVALID: &str = "the value of a secret does not fit its type";

/// A value that is never shown: `Debug`, `Display` and `Serialize` write `•••`, and no error message contains the
/// value. For settings such as passwords.
///
/// ```
/// use service_core::Secret;
///
/// #[derive(serde::Deserialize, Debug)]
/// struct Settings {
///     dsn: Secret<String>,
/// }
///
/// let settings = Settings { dsn: Secret::new("hunter2".to_owned()) };
/// assert_eq!(format!("{settings:?}"), "Settings { dsn: ••• }");
/// assert_eq!(settings.dsn.expose(), "hunter2");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value. The caller must not log or print it.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Unwraps the value. The caller must not log or print it.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NEWTYPE, Hidden(PhantomData))
    }
}

/// Passes every value on to `T`. Most formats call `visit_newtype_struct`; the other methods are for formats that call
/// the method of the value they found.
struct Hidden<T>(PhantomData<T>);

impl<T> Hidden<T> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<T>, D::Error>
    where
        T: Deserialize<'de>,
    {
        T::deserialize(deserializer).map(Secret).map_err(|_| de::Error::custom(INVALID))
    }
}

macro_rules! visit {
    ($($method:ident($type:ty) => $deserializer:ident;)*) => { $(
        fn $method<E: de::Error>(self, value: $type) -> Result<Self::Value, E> {
            Hidden::read($deserializer::new(value))
        }
    )* };
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Hidden<T> {
    type Value = Secret<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Self::read(deserializer)
    }

    visit! {
        visit_bool(bool) => BoolDeserializer;
        visit_i64(i64) => I64Deserializer;
        visit_u64(u64) => U64Deserializer;
        visit_f64(f64) => F64Deserializer;
        visit_str(&str) => StrDeserializer;
        visit_bytes(&[u8]) => BytesDeserializer;
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Self::read(UnitDeserializer::new())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Self::read(().into_deserializer())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Self::read(deserializer)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        Self::read(SeqAccessDeserializer::new(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        Self::read(MapAccessDeserializer::new(entries))
    }
}
