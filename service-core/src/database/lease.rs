//! Claims that outlive a statement: the rows of `service_claim`, with owner and expiry.
//!
//! The tricky part: a lease is renewed by a task of its own while its batch lives, so a crashed worker's claims run out,
//! and a slow one's do not. Should one run out all the same (a blocked thread, a database away for long), the worker finds
//! its claim gone when it settles, and its writes are undone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{
    Alias, DeleteStatement, Expr, ExprTrait, InsertStatement, OnConflict, Query, SelectStatement, UpdateStatement,
};
use tokio::task::JoinHandle;

use super::access::Access;

/// How long a claim stands without being renewed, unless the builder says otherwise.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(60);
/// Claims whose rows are gone are swept this long after they ran out.
const SWEEP_AFTER_MS: i64 = 3_600_000;

/// A batch's hold on its claims.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) owner: String,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Keeps the claims of `owner` alive until it is dropped.
    pub(crate) fn keep(access: &Access, work_table: &str, owner: String, length: Duration) -> Self {
        let (access, work_table, name) = (access.clone(), work_table.to_owned(), owner.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(length / 3).await;
                let expires = expiry(access.clock.now(), length);
                if let Err(error) = access.db.execute(&renew(&work_table, &name, expires)).await {
                    tracing::warn!(service.id = &*access.service_id, table = work_table, %error, "claims could not be renewed; trying again");
                }
            }
        });
        Self { owner, renewing }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// A name that no other batch has.
pub(crate) fn new_owner(service_id: &str) -> String {
    format!("{service_id}/{}/{:016x}", std::process::id(), fastrand::u64(..))
}

pub(crate) fn expiry(now: DateTime<Utc>, lease: Duration) -> i64 {
    now.timestamp_millis().saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
}

fn column(name: &'static str) -> Alias {
    Alias::new(name)
}

/// The rows of a table that somebody holds.
pub(crate) fn held(work_table: &str, now: DateTime<Utc>) -> SelectStatement {
    Query::select()
        .column(column("row_key"))
        .from(column("service_claim"))
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .and_where(Expr::col(column("expires_at")).gt(now.timestamp_millis()))
        .to_owned()
}

/// Claims rows; the answer names those that were to be had.
pub(crate) fn claim(
    work_table: &str,
    keys: impl IntoIterator<Item = String>,
    service_id: &str,
    owner: &str,
    now: DateTime<Utc>,
    lease: Duration,
) -> InsertStatement {
    let expires = expiry(now, lease);
    let columns = ["work_table", "row_key", "service_id", "owner", "expires_at"];
    let mut insert = Query::insert().into_table(column("service_claim")).columns(columns.map(column)).to_owned();
    for key in keys {
        insert.values_panic([work_table.into(), key.into(), service_id.into(), owner.into(), expires.into()]);
    }
    let ran_out = Expr::col((column("service_claim"), column("expires_at"))).lte(now.timestamp_millis());
    insert
        .on_conflict(
            OnConflict::columns(["work_table", "row_key"].map(column))
                .update_columns(["service_id", "owner", "expires_at"].map(column))
                .action_and_where(ran_out)
                .to_owned(),
        )
        .returning_col(column("row_key"))
        .to_owned()
}

fn renew(work_table: &str, owner: &str, expires: i64) -> UpdateStatement {
    Query::update()
        .table(column("service_claim"))
        .value(column("expires_at"), expires)
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .and_where(Expr::col(column("owner")).eq(owner))
        .to_owned()
}

/// Gives one claim back; no row affected: it was no longer held.
pub(crate) fn release(work_table: &str, key: &str, owner: &str) -> DeleteStatement {
    release_all(work_table, owner).and_where(Expr::col(column("row_key")).eq(key)).to_owned()
}

/// Gives every claim of an owner back.
pub(crate) fn release_all(work_table: &str, owner: &str) -> DeleteStatement {
    Query::delete()
        .from_table(column("service_claim"))
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .and_where(Expr::col(column("owner")).eq(owner))
        .to_owned()
}

/// Forgets claims that ran out long ago: their rows are gone, or nobody wants them.
pub(crate) fn sweep(work_table: &str, now: DateTime<Utc>) -> DeleteStatement {
    Query::delete()
        .from_table(column("service_claim"))
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .and_where(Expr::col(column("expires_at")).lt(now.timestamp_millis().saturating_sub(SWEEP_AFTER_MS)))
        .to_owned()
}
