//! User code that panics does not take the runtime with it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::runtime::entry::panic_message;

/// What came out of user code.
#[derive(Debug)]
pub(crate) enum Caught<T> {
    Returned(T),
    Panicked(String),
}

/// Calls `work` and catches its panic. Whatever it had in hand is ended by the caller, never used again.
#[inline]
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Caught<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Caught::Returned(value),
        Err(payload) => {
            let message = panic_message(&*payload);
            // A payload may itself panic when it is dropped; then it is better leaked.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget);
            Caught::Panicked(message)
        }
    }
}
