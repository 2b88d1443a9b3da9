//! What an operator sees of services: health, explain, the start-up table.

pub(crate) mod explain;
pub(crate) mod health;
#[cfg(any(feature = "admin", feature = "metrics"))]
pub(crate) mod series;
pub(crate) mod startup_table;
