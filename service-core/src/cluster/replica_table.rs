//! The rows of the replicas: each keeps one in `service_replica`, with the health of its services.

use std::time::{Duration, SystemTime};

use sea_orm::{DbBackend, QueryResult};
use serde::{Deserialize, Serialize};

use crate::cluster::lease_table::{LeaseTable, as_millis};
use crate::database::error_kind::DbResult;
use crate::observe::health::HealthStatus;
use crate::rfc3339;
use crate::service::error::Result;
use crate::service::state::ServiceState;

/// Rows of replicas that have not been seen for this long, and requests that are this old, are removed.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(3600);
/// A run that a replica has taken may last: its request is removed after this time.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

/// One replica: a process with services that have `scope = "cluster"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Replica {
    /// The unique id of the replica. It changes with every start of the process.
    pub id: String,
    /// The name of its machine.
    pub host: String,
    /// The id of its process.
    pub pid: u32,
    /// The version of service-core that it was built with.
    pub version: String,
    /// When it was started.
    #[serde(with = "rfc3339")]
    pub started_at: SystemTime,
    /// How long ago it wrote its row, in milliseconds.
    pub seen_ms_ago: u64,
    /// Whether it has written its row within the last 20 s.
    pub is_live: bool,
    /// Whether it is the replica that answers.
    pub is_this: bool,
    /// Its services, as it saw them then.
    pub services: Vec<ReplicaService>,
}

/// A service on a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplicaService {
    /// The id of the service.
    pub service_id: String,
    /// The state of the service there.
    pub state: ServiceState,
    /// The health status of the service there.
    pub status: HealthStatus,
    /// Why it is not healthy, or not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The epoch of its lease, if that replica holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
}

impl Replica {
    /// Its host and process: `web-2 (pid 71)`.
    pub fn label(&self) -> String {
        format!("{} (pid {})", self.host, self.pid)
    }

    /// Returns the service with this id as this replica sees it; `None` if the replica does not have it.
    pub fn service(&self, id: &str) -> Option<&ReplicaService> {
        self.services.iter().find(|service| service.service_id == id)
    }
}

impl LeaseTable {
    /// Writes the row of this replica.
    pub(super) async fn write_replica(&self, services: &[ReplicaService], limit: Duration) -> Result<()> {
        let services = serde_json::to_string(services)?;
        let write = || {
            let sql = format!(
                "INSERT INTO service_replica (id, host, pid, version, started_at, seen_at, services) \
                 VALUES ($1, $2, $3, $4, $5, {}, $6) \
                 ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, services = excluded.services",
                self.wall_now()
            );
            let replica = &self.replica;
            let started = rfc3339::millis(replica.started).to_string();
            let values = [
                self.owner(),
                replica.host.as_str().into(),
                i64::from(replica.pid).into(),
                env!("CARGO_PKG_VERSION").into(),
                started.into(),
                services.as_str().into(),
            ];
            self.statement(&sql, values)
        };
        self.db.write(limit, write).await.map(drop)
    }

    /// Removes the rows of replicas that have long been gone, and old requests. Rows that another session has locked
    /// stay.
    pub(super) async fn remove_old(&self, limit: Duration) -> Result<()> {
        let [forgotten, longest] = [FORGOTTEN, LONGEST_RUN].map(as_millis);
        let is_open = "action = 'run' AND taken_by IS NOT NULL AND report IS NULL";
        let age = format!("CASE WHEN {is_open} THEN {longest} ELSE {forgotten} END");
        let (now, age, skips) = (&self.wall_now(), &age, self.db.backend() == DbBackend::Postgres);
        for (table, time, age) in
            [("service_replica", "seen_at", &forgotten.to_string()), ("service_request", "requested_at", age)]
        {
            let remove = || {
                let is_old = format!("{time} < {now} - {age}{}", self.or_no_number(time));
                let skip_locked = if skips { " FOR UPDATE SKIP LOCKED" } else { "" };
                let old = format!("SELECT id FROM {table} WHERE {is_old}{skip_locked}");
                self.statement(&format!("DELETE FROM {table} WHERE id IN ({old})"), [])
            };
            self.db.write(limit, remove).await?;
        }
        Ok(())
    }

    /// Removes the row of this replica.
    pub(super) async fn remove_replica(&self, limit: Duration) -> Result<()> {
        let remove = || self.statement("DELETE FROM service_replica WHERE id = $1", [self.owner()]);
        self.db.write(limit, remove).await.map(drop)
    }

    /// Reads all replicas; those that were seen within `live` count as live.
    pub(super) async fn read_replicas(&self, live: Duration, limit: Duration) -> Result<Vec<Replica>> {
        let read = self.db.run(limit, |cx| async move {
            let sql = format!(
                "SELECT id, host, pid, version, started_at, {} - seen_at AS seen_ms, services FROM service_replica \
                 ORDER BY host, pid, id",
                self.wall_now()
            );
            let rows = self.db.query(&cx, self.statement(&sql, [])).await?;
            Ok(rows
                .iter()
                .filter_map(|row| self.readable("service_replica", row, self.replica_of(row, live)))
                .collect())
        });
        read.await
    }

    fn replica_of(&self, row: &QueryResult, live: Duration) -> DbResult<Replica> {
        let (seen, services): (i64, String) = (row.try_get("", "seen_ms")?, row.try_get("", "services")?);
        let (started, pid): (String, i64) = (row.try_get("", "started_at")?, row.try_get("", "pid")?);
        // A row that is ahead was written before the clock was set back. How long ago is not known, and a live replica
        // writes again.
        let (id, seen): (String, u64) = (row.try_get("", "id")?, seen.unsigned_abs());
        Ok(Replica {
            is_this: id == self.replica.owner,
            id,
            host: row.try_get("", "host")?,
            pid: u32::try_from(pid).unwrap_or_default(),
            version: row.try_get("", "version")?,
            started_at: humantime::parse_rfc3339(&started).unwrap_or(SystemTime::UNIX_EPOCH),
            seen_ms_ago: seen,
            is_live: Duration::from_millis(seen) <= live,
            // A replica of another version may write more.
            services: serde_json::from_str(&services).unwrap_or_default(),
        })
    }
}
