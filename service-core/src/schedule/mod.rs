//! When a service runs: pure arithmetic on instants and calendar times, with no clock and no task.

pub(crate) mod cron;
mod interval;

pub(crate) use interval::{Grid, later};
