//! The rows of the replicas: each keeps one in `service_replica`, with the health of its services.

use std::time::{Duration, SystemTime};

use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};

use crate::cluster::lease_table::LeaseTable;
use crate::database::tx_context::TxContext;
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
    /// Writes the row of this replica, and removes those of replicas that have long been gone.
    pub(super) async fn write_replica(&self, services: &[ReplicaService], limit: Duration) -> Result<()> {
        let services = serde_json::to_string(services)?;
        let write = self.db.run(limit, |cx| {
            let services = services.clone();
            async move {
                let now = self.wall_now();
                let tx = self.begin(&cx).await?;
                let sql = format!(
                    "INSERT INTO service_replica (id, host, pid, version, started_at, seen_at, services) \
                     VALUES ($1, $2, $3, $4, $5, {now}, $6) \
                     ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, services = excluded.services"
                );
                let replica = &self.replica;
                let started = rfc3339::millis(replica.started).to_string();
                let values = [
                    self.owner(),
                    replica.host.as_str().into(),
                    i64::from(replica.pid).into(),
                    env!("CARGO_PKG_VERSION").into(),
                    started.into(),
                    services.into(),
                ];
                tx.execute_raw(self.statement(&sql, values)).await?;
                let [forgotten, longest] =
                    [FORGOTTEN, LONGEST_RUN].map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
                let sql =
                    format!("DELETE FROM service_replica WHERE seen_at < {now} - $1{}", self.or_no_number("seen_at"));
                tx.execute_raw(self.statement(&sql, [forgotten.into()])).await?;
                let is_open = "action = 'run' AND taken_by IS NOT NULL AND report IS NULL";
                let age = format!("CASE WHEN {is_open} THEN {longest} ELSE {forgotten} END");
                let is_old = format!("requested_at < {now} - {age}");
                let sql = format!("DELETE FROM service_request WHERE {is_old}{}", self.or_no_number("requested_at"));
                tx.execute_raw(self.statement(&sql, [])).await?;
                tx.commit().await
            }
        });
        write.await
    }

    /// Removes the row of this replica.
    pub(super) async fn remove_replica(&self, limit: Duration) -> Result<()> {
        let remove = || self.statement("DELETE FROM service_replica WHERE id = $1", [self.owner()]);
        self.db.write(limit, remove).await.map(drop)
    }

    /// Reads all replicas; those that were seen within `live` count as live.
    pub(super) async fn read_replicas(&self, live: Duration, limit: Duration) -> Result<Vec<Replica>> {
        let read = self.db.run(limit, |TxContext { db, .. }| async move {
            let sql = format!(
                "SELECT id, host, pid, version, started_at, {} - seen_at AS seen_ms, services FROM service_replica \
                 ORDER BY host, pid, id",
                self.wall_now()
            );
            let rows = db.query_all_raw(self.statement(&sql, [])).await?;
            Ok(rows
                .iter()
                .filter_map(|row| self.readable("service_replica", row, self.replica_of(row, live)))
                .collect())
        });
        read.await
    }

    fn replica_of(&self, row: &QueryResult, live: Duration) -> Result<Replica, DbErr> {
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
