//! Settings into the service's own type, by serde.
//!
//! Text of the environment becomes what the type asks for (`reader.rs`). serde holds some values back before anything is
//! asked, behind `flatten` and in enums with a tag or without one; what is asked for then is found out by trying
//! (`search.rs`). An error is made by code that knows neither the key nor whether its value is a secret; it gets its path
//! from the reader that it passes first, and its words at the very end (`describe.rs`).

mod blame;
mod describe;
mod errors;
mod forms;
mod path;
mod reader;
mod search;

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use self::describe::Describer;
pub(super) use self::describe::hint;
use self::errors::Error;
use self::reader::{Reader, Shared};
use self::search::Search;
use super::errors::ConfigError;
use super::values::Value;

/// Whose settings are read, for messages, and how.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) service: &'a str,
    /// The file in which a missing setting can be set.
    pub(super) file: &'a str,
    /// Whether the type has a field for every key: then a key that it does not read is an error.
    pub(super) complete: bool,
}

/// Reads a value as the type, and returns which of the values read so far it is. Nothing but this knows the type, so that
/// the rest is compiled once.
type Read<'a> = dyn Fn(&Reader<'_>) -> Result<Nth, Error> + 'a;

type Nth = usize;

/// Reads a table of settings as `T`.
///
/// # Errors
/// A setting is missing or does not fit, or a nested one is unknown.
pub(super) fn read<T: DeserializeOwned>(settings: &Value, subject: Subject<'_>) -> Result<T, ConfigError> {
    let values = RefCell::new(Vec::new());
    let read = |reader: &Reader<'_>| {
        let value = T::deserialize(reader)?;
        values.borrow_mut().push(value);
        Ok(values.borrow().len() - 1)
    };
    let nth = read_nth(&read, settings, subject)?;
    Ok(values.into_inner().swap_remove(nth))
}

fn read_nth(read: &Read<'_>, settings: &Value, subject: Subject<'_>) -> Result<Nth, ConfigError> {
    let shared = Shared::new(subject.complete);
    let (result, _) = errors::recorded(|| read(&Reader::root(settings, &shared)));
    let mut describer = Describer::new(settings, subject);
    if shared.has_held_back()
        && let Some(mut search) = Search::new(read, settings, subject.complete)
    {
        return search.run(&mut describer);
    }
    result.map_err(|error| {
        describer.hide(shared.typed_secrets());
        describer.describe(&error, error.path.as_deref().unwrap_or_default())
    })
}
