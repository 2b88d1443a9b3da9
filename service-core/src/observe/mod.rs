//! What an operator sees of services: health, explain, the start-up table.

pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod startup_table;
