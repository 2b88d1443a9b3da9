//! Reading settings as a type, by serde.
//!
//! Text from the environment is converted to the type that is requested (`reader.rs`). serde buffers some values before
//! their type requests them: behind `flatten`, and in tagged and untagged enums. The requested types are then found by
//! several attempts (`search.rs`). The code that creates an error knows neither the key nor whether its value is a
//! secret: the innermost reader adds the path, and the message is written at the end (`describe.rs`).

mod blame;
mod describe;
mod errors;
mod forms;
mod path;
mod reader;
mod search;
mod secrets;
mod subject;

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use self::describe::Describer;
pub(super) use self::describe::hint;
use self::reader::{Nth, Read, Reader, ReaderState};
use self::search::Search;
pub(super) use self::subject::Subject;
use super::errors::ConfigError;
use super::values::Value;

/// Reads a table of settings as `T`.
///
/// # Errors
/// A setting is missing or wrong, or a nested one is unknown.
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
    let shared = ReaderState::new(subject.complete);
    let (result, _) = errors::recorded(|| read(&Reader::root(settings, &shared)));
    let mut describer = Describer::new(settings, subject);
    if shared.has_buffered()
        && let Some(mut search) = Search::new(read, settings, subject.complete)
    {
        return search.run(&mut describer);
    }
    result.map_err(|error| {
        describer.hide(shared.typed_secrets());
        describer.describe(&error, error.path.as_deref().unwrap_or_default())
    })
}
