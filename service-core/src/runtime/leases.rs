//! [`Leases`]: the interface for what coordinates the replicas. A feature implements it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::runtime::lifecycle::BoxFuture;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::service::error::Result;
use crate::service::outcome::RunReport;

/// A lease as the database has it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseRow {
    /// The replica that has taken it last, as its id.
    pub(crate) owner: String,
    /// The host and process of that replica.
    pub(crate) label: String,
    pub(crate) epoch: u64,
    /// How long ago it was renewed.
    pub(crate) renewed: Duration,
    /// How long it is still valid, so that only its owner may run the service. Zero: it is free.
    pub(crate) left: Duration,
    /// Whether it was handed over to another replica, which has precedence.
    pub(crate) is_reserved: bool,
}

/// Decides which replica runs each service with `scope = "cluster"`.
pub(crate) trait Leases: fmt::Debug + Send + Sync {
    /// Starts its tasks on this runtime, unless they run already. It does not keep the registry alive.
    fn start(&self, registry: Arc<dyn Any + Send + Sync>, services: &Arc<Services>, runtime: &Handle);

    /// This replica starts services: it shows itself to the others from now on, until [`stop`](Self::stop). A single
    /// run does not need that.
    fn join(&self);

    /// A service waits for its lease from now on.
    fn wanted(&self);

    /// Releases the lease of this epoch, whose service has stopped here: another replica may take it at once. With a
    /// `target`, the service is handed over to that replica, which has precedence.
    fn release<'a>(&'a self, service: &'a ServiceInner, epoch: u64, target: Option<&'a str>) -> BoxFuture<'a, ()>;

    /// Records how long ago the schedule's last point was, for the replica that takes over.
    fn record_point<'a>(&'a self, service: &'a ServiceInner, epoch: u64, age: Duration) -> BoxFuture<'a, ()>;

    /// Lets the replica that holds the lease run the service now, and waits for the report of that run.
    ///
    /// # Errors
    /// No replica has taken the request within 60 s; the replica that took it has lost the lease; or the database does
    /// not answer.
    fn request_run<'a>(&'a self, service: &'a ServiceInner) -> BoxFuture<'a, Result<RunReport>>;

    /// Wakes the service on the replica that holds its lease. Never waits.
    fn forward_wake(&self, id: &Arc<str>);

    /// Requests a `reset` of the service on the other replicas on which it is `Failed`. Returns on how many of them that
    /// is known. If on none, also here, this takes 1 s.
    ///
    /// # Errors
    /// The database does not answer.
    fn reset_others<'a>(&'a self, service: &'a ServiceInner) -> BoxFuture<'a, Result<usize>>;

    /// A service has ended on this replica: the others are shown that soon.
    fn report_soon(&self);

    /// Returns the host and process of this replica.
    fn label(&self) -> String;

    /// Whether this replica has taken the lease last.
    fn is_own(&self, row: &LeaseRow) -> bool;

    /// Returns all replicas, for people.
    ///
    /// # Errors
    /// The database does not answer.
    fn replicas(&self) -> BoxFuture<'_, Result<serde_json::Value>>;

    /// Returns the replicas that have the service, as this replica has read them last, for
    /// [`Explanation::replicas`](crate::Explanation::replicas). Empty: it has not read them yet.
    fn known_replicas(&self, id: &str) -> serde_json::Value;

    /// Reads the leases of these services. Those that no replica has ever taken are left out.
    ///
    /// # Errors
    /// The database does not answer.
    fn read_leases<'a>(&'a self, ids: &'a [Arc<str>]) -> BoxFuture<'a, Result<BTreeMap<String, LeaseRow>>>;

    /// Called at the end of a shutdown: waits until no lease is being taken.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
