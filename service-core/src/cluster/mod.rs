//! More than one replica: which of them runs a service with `scope = "cluster"`.
//!
//! Each such service has a lease, a row of the database that all replicas share. The holder renews it; the others stand
//! by, and one of them takes it when it has expired or was released. Each takeover has a number, the epoch, which only
//! grows. The page "More than one replica" (`docs/replicas.md`) says what is guaranteed.

mod clock;
mod coordinator;
mod fleet;
mod identity;
mod lease_table;
mod replica_table;
mod request_table;
mod sharing;

pub use replica_table::{Replica, ReplicaService};

use std::any::Any;
use std::sync::Arc;

use crate::cluster::coordinator::Coordinator;
use crate::database::extension::DatabaseExtension;
use crate::registry::companion::LeasesBuilder;
use crate::runtime::extension::Extension;
use crate::runtime::shared::Shared;

/// Installs the leases of a registry with a database.
fn install(extension: &dyn Extension, shared: &Arc<Shared>) {
    let Some(database) = (extension as &dyn Any).downcast_ref::<DatabaseExtension>() else { return };
    let clock = clock::lease_clock(&shared.clock);
    // Each registry is built once.
    let _ = shared.lease_clock.set(clock.clone());
    database.install_leases(Arc::new(Coordinator::new(database.registry_db(), clock)));
}

inventory::submit!(LeasesBuilder { install });
