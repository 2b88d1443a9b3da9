//! The part of an explanation about services with `scope = "cluster"`: the lease, and the replicas that have the service.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::humanize;
use crate::observe::health::HealthStatus;
use crate::runtime::extension::Extension;
use crate::runtime::lease::Lease;
use crate::runtime::service_inner::ServiceInner;
use crate::service::state::ServiceState;

/// The lease of a service with `scope = "cluster"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExplainedLease {
    /// Which replica holds it, as text: `held by this replica, epoch 41`; or why that is not known.
    pub description: String,
    /// The host and process of the holder: `web-2 (pid 71)`. `None`: no holder is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Whether the holder is the replica that answers.
    pub is_this: bool,
    /// The number of the takeover by which the holder has got it. `None`: no holder is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// A replica that has the service.
///
/// [`Display`](fmt::Display) writes one line: `web-2 (pid 71): running, healthy, epoch 41`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExplainedReplica {
    /// Its host and process: `web-2 (pid 71)`.
    pub label: String,
    /// Whether it is the replica that answers.
    pub is_this: bool,
    /// Whether it had written its row within the last 20 s when the rows were read. `false` also if they were read more
    /// than 20 s ago.
    pub is_live: bool,
    /// How long ago it wrote its row, in milliseconds; 0 for the replica that answers.
    pub seen_ms_ago: u64,
    /// The state of the service there.
    pub state: ServiceState,
    /// The health status of the service there.
    pub status: HealthStatus,
    /// The epoch of its lease, if that replica holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
}

impl fmt::Display for ExplainedReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let this = if self.is_this { ", this replica" } else { "" };
        write!(f, "{}{this}: {}, {}", self.label, self.state, self.status)?;
        if let Some(epoch) = self.lease_epoch {
            write!(f, ", epoch {epoch}")?;
        }
        if !self.is_live {
            let seconds = Duration::from_secs(self.seen_ms_ago / 1_000);
            write!(f, "; silent for {}", humanize::long(seconds))?;
        }
        Ok(())
    }
}

/// Returns the lease of a service, and the replicas that have it. `None`: it has no lease.
pub(super) fn of(
    service: &ServiceInner,
    extension: &dyn Extension,
    state: ServiceState,
    status: HealthStatus,
) -> Option<(ExplainedLease, Vec<ExplainedReplica>)> {
    let (lease, leases) = (service.lease.as_ref()?, extension.leases()?);
    let mut replicas: Vec<ExplainedReplica> =
        serde_json::from_value(leases.known_replicas(&service.id)).unwrap_or_default();
    // This replica knows itself better than its row, which may be 5 s old.
    let this = ExplainedReplica {
        label: leases.label(),
        is_this: true,
        is_live: true,
        seen_ms_ago: 0,
        state,
        status,
        lease_epoch: lease.epoch(),
    };
    match replicas.iter_mut().find(|replica| replica.is_this) {
        Some(known) => *known = this,
        None => replicas.insert(0, this),
    }
    Some((holder(lease, &replicas), replicas))
}

fn holder(lease: &Lease, replicas: &[ExplainedReplica]) -> ExplainedLease {
    let shown = |is_this: bool| {
        let live = replicas.iter().filter(|replica| replica.is_live && replica.is_this == is_this);
        let holders = live.filter_map(|replica| Some((replica.lease_epoch?, &replica.label)));
        holders.max_by_key(|(epoch, _)| *epoch).map(|(epoch, label)| {
            let by = if is_this { "this replica" } else { label.as_str() };
            let description = format!("held by {by}, epoch {epoch}");
            ExplainedLease { description, holder: Some(label.clone()), is_this, epoch: Some(epoch) }
        })
    };
    if let Some(held) = shown(true) {
        return held;
    }
    // A replica that does not wait for the lease does not look for its holder, but the rows of the others show it.
    if !lease.is_wanted()
        && let Some(held) = shown(false)
    {
        return held;
    }
    let holder = lease.holder().filter(|holder| !holder.has_handed_over);
    ExplainedLease {
        description: lease.describe_holder().unwrap_or_else(|why| why),
        epoch: holder.as_ref().map(|holder| holder.epoch),
        holder: holder.map(|holder| holder.label),
        is_this: false,
    }
}
