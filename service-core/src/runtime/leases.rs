//! [`Leases`]: the interface for what coordinates the replicas. A feature implements it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;

/// Decides which replica runs each service with `scope = "cluster"`.
pub(crate) trait Leases: fmt::Debug + Send + Sync {
    /// Starts its tasks on this runtime, unless they run already.
    fn start(&self, services: &Arc<Services>, runtime: &Handle);

    /// A service waits for its lease from now on.
    fn wanted(&self);

    /// Releases the lease of this epoch, whose service has stopped here: another replica may take it at once.
    fn release<'a>(&'a self, service: &'a ServiceInner, epoch: u64) -> BoxFuture<'a, ()>;

    /// Records how long ago the schedule's last point was, for the replica that takes over.
    fn record_point<'a>(&'a self, service: &'a ServiceInner, epoch: u64, age: Duration) -> BoxFuture<'a, ()>;

    /// Called at the end of a shutdown: waits until no lease is being taken.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
