//! What the runtime promises, one file a behaviour.

mod acting;
mod failures;
mod lifecycle;
mod pausing;
mod stopping;
mod support;
