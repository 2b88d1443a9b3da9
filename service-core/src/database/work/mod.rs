//! Work in the user's own tables: claims, batches, and the status of rows.

pub(crate) mod batch;
pub(crate) mod builder;
pub(crate) mod claim;
mod completions;
pub(crate) mod concurrent;
pub(crate) mod due;
pub(crate) mod for_each;
pub(crate) mod index;
pub(crate) mod inspection;
pub(crate) mod item;
pub(crate) mod item_fn;
pub(crate) mod lease;
pub(crate) mod leased;
mod leased_sql;
pub(crate) mod linked;
pub(crate) mod portions;
pub(crate) mod retained;
mod retention;
pub(crate) mod retry;
pub(crate) mod row;
pub(crate) mod settlement;
pub(crate) mod settler;
pub(crate) mod sql;
pub(crate) mod together;
pub(crate) mod work_item;
pub(crate) mod work_state;
pub(crate) mod write_row;
