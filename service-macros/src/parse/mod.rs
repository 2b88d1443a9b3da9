//! The attribute's arguments and the annotated item, read from their tokens.

pub(crate) mod args;
pub(crate) mod attributes;
pub(crate) mod cron;
pub(crate) mod dates;
pub(crate) mod item;
pub(crate) mod keys;
pub(crate) mod lists;
pub(crate) mod names;
pub(crate) mod reads;
pub(crate) mod units;
pub(crate) mod value;
pub(crate) mod words;
