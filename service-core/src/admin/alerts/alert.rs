//! [`ServiceAlert`]: what is sent.

use std::time::SystemTime;

use serde::Serialize;

use crate::observe::health::ServiceHealth;
use crate::rfc3339;

/// An alert about a service or about a resource that services use. A webhook gets it as JSON.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServiceAlert {
    /// The unique id of the alert. An alert that is sent again after an error has the same id.
    pub id: String,
    /// What happened.
    pub event: AlertKind,
    /// The id of the service; `None` if the alert is about a resource.
    pub service_id: Option<String>,
    /// The name of the resource: that of a probe, or `database`.
    pub resource: Option<String>,
    /// When it was noticed.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub at: SystemTime,
    /// What happened and why, as one line.
    pub summary: String,
    /// The requester id of the registry.
    pub requester_id: String,
    /// The health of the service at that time.
    pub health: Option<ServiceHealth>,
}

/// What a [`ServiceAlert`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertKind {
    /// The service has failed permanently.
    Failed,
    /// A run was given up after `max_failures`, and no run has succeeded since.
    GivenUp,
    /// The service has been unhealthy for a minute for another reason; `summary` says why.
    Unhealthy,
    /// An alert about the service is over.
    Recovered,
    /// A resource that services use has been down for 5 s.
    Outage,
    /// The resource is available again.
    OutageOver,
}
