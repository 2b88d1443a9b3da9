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
mod subject;

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use self::describe::Describer;
pub(super) use self::describe::hint;
use self::reader::{Nth, Read, Reader, Shared};
use self::search::Search;
pub(super) use self::subject::Subject;
use super::errors::ConfigError;
use super::values::Value;

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
