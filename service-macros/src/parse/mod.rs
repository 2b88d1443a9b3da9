//! What was written: the attribute's arguments and the item below it.

pub(crate) mod args;
pub(crate) mod cron;
pub(crate) mod item;
pub(crate) mod keys;
pub(crate) mod names;
pub(crate) mod units;
pub(crate) mod value;
