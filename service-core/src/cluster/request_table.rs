//! The rows of requests, `service_request`: what one replica asks another one to do with a service. A request that no
//! replica has taken within a minute is void.

use std::time::Duration;

use sea_orm::{ConnectionTrait, QueryResult};
use serde::{Deserialize, Serialize};

use crate::cluster::identity::unique;
use crate::cluster::lease_table::{LeaseTable, as_millis};
use crate::database::error_kind::DbResult;
use crate::database::transaction::Transaction;
use crate::service::error::{Error, Result};
use crate::service::outcome::{Outcome, RunReport};

/// A request is void after this time.
pub(super) const VOID_AFTER: Duration = Duration::from_secs(60);

/// What is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A run, with a report.
    Run,
    Wake,
    /// For every other replica on which the service is `Failed`.
    Reset,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Wake => "wake",
            Self::Reset => "reset",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Run, Self::Wake, Self::Reset].into_iter().find(|action| action.word() == word)
    }
}

/// A request that is not void.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) service_id: String,
    pub(super) action: Action,
    requested_at: i64,
}

impl Request {
    /// Differs when the request is renewed.
    pub(super) fn version(&self) -> String {
        format!("{} {}", self.id, self.requested_at)
    }
}

/// How far a request for a run is.
#[derive(Debug)]
pub(super) enum RequestProgress {
    /// No replica has taken it yet.
    Open,
    /// No replica has taken it in time.
    Void,
    /// It is not stored any more.
    Gone,
    /// The replica that has taken it still holds the lease, or does not.
    Taken {
        is_holder: bool,
    },
    Done(RunReport),
}

/// A report as it is stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredReport {
    processed: u64,
    failed: u64,
    again: bool,
    duration_ms: u64,
    error: Option<String>,
}

impl LeaseTable {
    /// Adds a request with this new id.
    pub(super) async fn add_request(&self, id: &str, service_id: &str, action: Action, limit: Duration) -> Result<()> {
        let add = self.db.run(limit, |cx| async move {
            let tx = Transaction::begin_limited(&cx).await?;
            let sql = format!(
                "INSERT INTO service_request (id, service_id, action, requested_by, requested_at) \
                 VALUES ($1, $2, $3, $4, {}) ON CONFLICT (id) DO NOTHING",
                self.wall_now()
            );
            let values = [id.into(), service_id.into(), action.word().into(), self.owner()];
            tx.execute_raw(self.statement(&sql, values)).await?;
            self.announce(&tx).await?;
            tx.commit().await
        });
        add.await?;
        self.notify_replicas();
        Ok(())
    }

    /// Adds a request for a wake-up, unless there is one that no replica has taken: then that one counts from now on.
    pub(super) async fn add_wake(&self, service_id: &str, limit: Duration) -> Result<()> {
        // A holder removes the row before the run begins that serves it: so a row that is still there is served.
        let renew = || {
            let sql = format!(
                "UPDATE service_request SET requested_at = {} \
                 WHERE service_id = $1 AND action = 'wake' AND taken_by IS NULL",
                self.wall_now()
            );
            self.statement(&sql, [service_id.into()])
        };
        if self.db.write(limit, renew).await? == 0 {
            self.add_request(&unique(), service_id, Action::Wake, limit).await?;
        }
        Ok(())
    }

    /// Removes a request for a wake-up, because this replica serves it. One that was renewed since it was read stays:
    /// the statement may arrive late.
    pub(super) async fn remove_wake(&self, request: &Request, limit: Duration) -> Result<()> {
        let sql = "DELETE FROM service_request WHERE id = $1 AND requested_at = $2";
        let remove = || self.statement(sql, [request.id.as_str().into(), request.requested_at.into()]);
        self.db.write(limit, remove).await.map(drop)
    }

    /// Reads the requests that no replica has taken, those for all replicas, and the runs that this replica has taken
    /// and not reported.
    pub(super) async fn read_requests(&self, limit: Duration) -> Result<Vec<Request>> {
        let read = self.db.run(limit, |cx| async move {
            let sql = format!(
                "SELECT id, service_id, action, requested_at FROM service_request \
                 WHERE (taken_by IS NULL OR taken_by = $2 AND action = 'run' AND report IS NULL) AND requested_at > {} - $1 \
                 ORDER BY requested_at, id",
                self.wall_now()
            );
            let rows = self.db.query(&cx, self.statement(&sql, [as_millis(VOID_AFTER).into(), self.owner()])).await?;
            let read = |row: &QueryResult| self.readable("service_request", row, request_of(row)).flatten();
            Ok(rows.iter().filter_map(read).collect())
        });
        read.await
    }

    /// Takes a request. Returns whether this replica carries it out.
    pub(super) async fn take_request(&self, id: &str, limit: Duration) -> Result<bool> {
        let take = || {
            let sql = format!(
                "UPDATE service_request SET taken_by = $2 \
                 WHERE id = $1 AND (taken_by IS NULL OR taken_by = $2) AND requested_at > {} - $3",
                self.wall_now()
            );
            self.statement(&sql, [id.into(), self.owner(), as_millis(VOID_AFTER).into()])
        };
        Ok(self.db.write(limit, take).await? == 1)
    }

    /// Leaves a request that this replica has taken to the next holder.
    pub(super) async fn give_back(&self, id: &str, limit: Duration) -> Result<()> {
        let sql = "UPDATE service_request SET taken_by = NULL WHERE id = $1 AND taken_by = $2 AND report IS NULL";
        self.db.write(limit, || self.statement(sql, [id.into(), self.owner()])).await.map(drop)
    }

    /// Stores the report of a run that was requested.
    pub(super) async fn write_report(&self, id: &str, report: &Result<RunReport>, limit: Duration) -> Result<()> {
        let stored = match report {
            Ok(report) => StoredReport {
                processed: report.processed(),
                failed: report.failed(),
                again: report.again(),
                duration_ms: u64::try_from(report.duration().as_millis()).unwrap_or(u64::MAX),
                error: report.error().map(|error| format!("{error:#}")),
            },
            Err(error) => StoredReport { error: Some(format!("{error:#}")), ..StoredReport::default() },
        };
        let stored = serde_json::to_string(&stored)?;
        let write = self.db.run(limit, |cx| {
            let stored = stored.clone();
            async move {
                let tx = Transaction::begin_limited(&cx).await?;
                // The row stays for an hour from now on.
                let now = self.wall_now();
                let sql = format!("UPDATE service_request SET report = $2, requested_at = {now} WHERE id = $1");
                tx.execute_raw(self.statement(&sql, [id.into(), stored.into()])).await?;
                self.announce(&tx).await?;
                tx.commit().await
            }
        });
        write.await?;
        self.notify_replicas();
        Ok(())
    }

    /// Reads how far a request for a run is.
    pub(super) async fn read_progress(&self, id: &str, limit: Duration) -> Result<RequestProgress> {
        let read = self.db.run(limit, |cx| async move {
            let sql = format!(
                "SELECT taken_by, report, CASE WHEN requested_at > {} - $2 THEN 1 ELSE 0 END AS is_open, \
                 CASE WHEN EXISTS (SELECT 1 FROM service_lease \
                 WHERE service_lease.service_id = service_request.service_id AND owner = taken_by \
                 AND boot = $3 AND expires_at > {}) THEN 1 ELSE 0 END AS is_holder \
                 FROM service_request WHERE id = $1",
                self.wall_now(),
                self.now()
            );
            let query = self.statement(&sql, [id.into(), as_millis(VOID_AFTER).into(), self.boot()]);
            let Some(row) = self.db.query(&cx, query).await?.pop() else { return Ok(RequestProgress::Gone) };
            let (taken, report): (Option<String>, Option<String>) =
                (row.try_get("", "taken_by")?, row.try_get("", "report")?);
            let flag = |name: &str| -> DbResult<bool> { Ok(row.try_get::<i32>("", name)? == 1) };
            Ok(match (report, taken) {
                (Some(report), _) => RequestProgress::Done(report_of(serde_json::from_str(&report)?)),
                (None, Some(_)) => RequestProgress::Taken { is_holder: flag("is_holder")? },
                (None, None) if flag("is_open")? => RequestProgress::Open,
                (None, None) => RequestProgress::Void,
            })
        });
        read.await
    }
}

/// `None`: a later version has requested what this one does not know.
fn request_of(row: &QueryResult) -> DbResult<Option<Request>> {
    let action: String = row.try_get("", "action")?;
    let Some(action) = Action::parse(&action) else { return Ok(None) };
    let [id, service_id] = ["id", "service_id"].map(|name| row.try_get("", name));
    Ok(Some(Request { id: id?, service_id: service_id?, action, requested_at: row.try_get("", "requested_at")? }))
}

fn report_of(stored: StoredReport) -> RunReport {
    let StoredReport { processed, failed, again, duration_ms, error } = stored;
    RunReport {
        outcome: Outcome { processed, failed, again },
        error: error.map(Error::msg),
        duration: Duration::from_millis(duration_ms),
    }
}
