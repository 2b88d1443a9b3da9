//! What the runtime promises, one file a behaviour.

mod failures;
mod lifecycle;
mod support;
