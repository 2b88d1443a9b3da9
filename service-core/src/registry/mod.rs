//! Many services: the builder, the registry, its handles, the order of starts and stops, signals.
//!
//! The tricky part is order: a service starts after (`starting`) and stops before (`stopping`) the services that it
//! depends on. The services of one tier start and stop concurrently. A running service holds its registry, so dropping
//! every handle stops nothing.

mod all;
pub(crate) mod builder;
mod checks;
pub(crate) mod companion;
mod context;
pub(crate) mod expect;
pub(crate) mod handle;
mod home;
pub(crate) mod instances;
pub(crate) mod register;
pub(crate) mod reload;
pub(crate) mod run;
mod run_once;
pub(crate) mod service_registry;
mod session;
pub(crate) mod signals;
mod starting;
mod stopping;
#[cfg(target_os = "linux")]
mod systemd;
