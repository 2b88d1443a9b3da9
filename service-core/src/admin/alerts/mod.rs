//! Sends alerts about services to a webhook, or to a closure of the application.

mod alert;
mod companion;
mod delivery;
mod watch;
mod webhook;

pub use alert::{AlertKind, ServiceAlert};
pub(crate) use companion::Alerts;
pub(crate) use delivery::Queue;
