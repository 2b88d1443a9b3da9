//! Wake-ups through the database: notifications that follow a commit, and those of other replicas and programs.

#[cfg(feature = "postgres")]
pub(crate) mod listener;
pub(crate) mod notifier;
pub(crate) mod sender;
pub(crate) mod trigger;
