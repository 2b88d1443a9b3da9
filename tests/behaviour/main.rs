//! What the runtime promises, one file a behaviour.

mod acting;
mod failures;
mod lifecycle;
mod panics;
mod pausing;
mod reset;
mod run_now;
mod stopping;
mod support;
