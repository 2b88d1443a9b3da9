//! The table layers of the configuration: `service_config` and `service_override`, and the task that reads them.

pub(crate) mod rows;
pub(crate) mod tables;
pub(crate) mod watcher;
