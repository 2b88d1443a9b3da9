//! Claims that outlive a statement: the rows of `service_claim`, with owner and expiry.
//!
//! The tricky part: a lease is renewed by a task of its own while its batch lives, so a crashed worker's claims run out,
//! and a slow one's do not. Should one run out all the same (a blocked thread, a database away for long), the worker finds
//! its claim gone when it settles, and its writes are undone.
//!
//! A row that kills its process is found without a word more to the database: claims are numbered in the order in which
//! their rows are lent, and each goes with its row's commit. The first that is left of a dead owner is that of the row it
//! was at, or about to be.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{
    Alias, Condition, DeleteStatement, Expr, ExprTrait, InsertStatement, OnConflict, Query, SelectStatement,
    UpdateStatement,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use tokio::task::JoinHandle;

use crate::database::service_db::ServiceDb;

/// How long a claim stands without being renewed, unless the builder says otherwise.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(60);
/// Claims whose rows are gone are swept this long after they ran out. Until then they remember over which row a process died.
const SWEEP_AFTER_MS: i64 = 30 * 24 * 3_600_000;
/// How often a process may die over a row before the row is held to be the cause: it may have been killed from outside.
pub(crate) const TOLERATED_CRASHES: i64 = 2;
/// Six values each: SQLite takes 32,766 in one statement.
const CLAIMS_A_STATEMENT: usize = 1_000;
/// Who owns the claims of the dead, once they have been looked at.
const NO_OWNER: &str = "";

/// A batch's hold on its claims.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) owner: String,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Keeps the claims of `owner` alive until it is dropped.
    pub(crate) fn start(service_db: &ServiceDb, work_table: &str, owner: String, length: Duration) -> Self {
        let (service_db, work_table, name) = (service_db.clone(), work_table.to_owned(), owner.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(length / 3).await;
                let expires = expiry(service_db.clock.now(), length);
                if let Err(error) = service_db.tx.db.execute(&renew(&work_table, &name, expires)).await {
                    crate::log::warn!(service.id = &*service_db.service_id, table = work_table, %error, "claims could not be renewed; trying again");
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

/// An owner's claims of rows of a table.
fn is_of(work_table: &str, owner: &str) -> Condition {
    let is = |name, value: &str| Expr::col(column(name)).eq(value);
    Condition::all().add(is("work_table", work_table)).add(is("owner", owner))
}

/// A claim as it stands.
#[derive(Debug)]
pub(crate) struct ClaimRow {
    pub(crate) key: String,
    owner: String,
    seq: i64,
    expires_at: i64,
    /// How often a process died over its row.
    pub(crate) crashes: i64,
}

impl ClaimRow {
    /// Somebody holds it.
    pub(crate) fn is_held(&self, now: DateTime<Utc>) -> bool {
        self.expires_at > now.timestamp_millis()
    }

    pub(crate) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            key: row.try_get("", "row_key")?,
            owner: row.try_get("", "owner")?,
            seq: row.try_get("", "seq")?,
            expires_at: row.try_get("", "expires_at")?,
            crashes: row.try_get("", "crashes")?,
        })
    }
}

/// Every claim of a table.
pub(crate) fn select_claims(work_table: &str) -> SelectStatement {
    Query::select()
        .columns(["row_key", "owner", "seq", "expires_at", "crashes"].map(column))
        .from(column("service_claim"))
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .to_owned()
}

/// Notes the deaths that nobody has noted yet: for each owner whose claims ran out, over which row it died.
pub(crate) fn record_crashes(work_table: &str, claims: &mut [ClaimRow], now: DateTime<Utc>) -> Vec<UpdateStatement> {
    let mut suspects: BTreeMap<String, usize> = BTreeMap::new();
    for (at, claim) in claims.iter().enumerate().filter(|(_, claim)| !claim.is_held(now) && claim.owner != NO_OWNER) {
        let suspect = suspects.entry(claim.owner.clone()).or_insert(at);
        if claim.seq < claims[*suspect].seq {
            *suspect = at;
        }
    }
    let note = |(owner, at): (String, usize)| {
        claims[at].crashes += 1;
        let is_suspect = Expr::col(column("row_key")).eq(claims[at].key.as_str());
        let crashes = Expr::col(column("crashes"));
        Query::update()
            .table(column("service_claim"))
            .value(column("crashes"), Expr::case(is_suspect, crashes.clone().add(1)).finally(crashes))
            .value(column("owner"), NO_OWNER)
            .cond_where(is_of(work_table, &owner))
            .and_where(Expr::col(column("expires_at")).lte(now.timestamp_millis()))
            .to_owned()
    };
    suspects.into_iter().map(note).collect()
}

/// The row was charged for a death and has attempts left: one more death, and it is charged again.
pub(crate) fn mark_charged(work_table: &str, key: &str, owner: &str, now: DateTime<Utc>) -> UpdateStatement {
    Query::update()
        .table(column("service_claim"))
        .value(column("crashes"), TOLERATED_CRASHES)
        .value(column("owner"), NO_OWNER)
        .value(column("expires_at"), now.timestamp_millis())
        .cond_where(is_of(work_table, owner))
        .and_where(Expr::col(column("row_key")).eq(key))
        .to_owned()
}

/// Claims rows, in the order in which they will be lent; the answers name those that were to be had.
pub(crate) fn claim(
    work_table: &str,
    keys: &[&str],
    service_id: &str,
    owner: &str,
    now: DateTime<Utc>,
    lease: Duration,
) -> Vec<InsertStatement> {
    let expires = expiry(now, lease);
    let numbered: Vec<(i64, &str)> = (0_i64..).zip(keys.iter().copied()).collect();
    let statement = |rows: &[(i64, &str)]| {
        let columns = ["work_table", "row_key", "service_id", "owner", "expires_at", "seq"];
        let mut insert = Query::insert().into_table(column("service_claim")).columns(columns.map(column)).to_owned();
        for &(seq, key) in rows {
            let values = [work_table.into(), key.into(), service_id.into(), owner.into(), expires.into(), seq.into()];
            insert.values_panic(values);
        }
        let ran_out = Expr::col((column("service_claim"), column("expires_at"))).lte(now.timestamp_millis());
        insert
            .on_conflict(
                OnConflict::columns(["work_table", "row_key"].map(column))
                    .update_columns(["service_id", "owner", "expires_at", "seq"].map(column))
                    .action_and_where(ran_out)
                    .to_owned(),
            )
            .returning_col(column("row_key"))
            .to_owned()
    };
    numbered.chunks(CLAIMS_A_STATEMENT).map(statement).collect()
}

fn renew(work_table: &str, owner: &str, expires: i64) -> UpdateStatement {
    Query::update()
        .table(column("service_claim"))
        .value(column("expires_at"), expires)
        .cond_where(is_of(work_table, owner))
        .to_owned()
}

/// Gives one claim back; no row affected: it was no longer held.
pub(crate) fn release(work_table: &str, key: &str, owner: &str) -> DeleteStatement {
    Query::delete()
        .from_table(column("service_claim"))
        .cond_where(is_of(work_table, owner))
        .and_where(Expr::col(column("row_key")).eq(key))
        .to_owned()
}

/// Gives every claim of an owner back. Those of rows over which a process died are kept, free for anybody: such rows go last in
/// their batches, so a batch that ends early mostly has not come to them, and knows nothing new of them.
pub(crate) async fn release_all(
    db: &impl ConnectionTrait,
    work_table: &str,
    owner: &str,
    now: DateTime<Utc>,
) -> Result<(), DbErr> {
    let innocent = Query::delete()
        .from_table(column("service_claim"))
        .cond_where(is_of(work_table, owner))
        .and_where(Expr::col(column("crashes")).eq(0))
        .to_owned();
    let suspect = Query::update()
        .table(column("service_claim"))
        .value(column("owner"), NO_OWNER)
        .value(column("expires_at"), now.timestamp_millis())
        .cond_where(is_of(work_table, owner))
        .to_owned();
    db.execute(&innocent).await?;
    db.execute(&suspect).await?;
    Ok(())
}

/// Forgets claims that ran out long ago: their rows are gone, or nobody wants them.
pub(crate) fn sweep(work_table: &str, now: DateTime<Utc>) -> DeleteStatement {
    Query::delete()
        .from_table(column("service_claim"))
        .and_where(Expr::col(column("work_table")).eq(work_table))
        .and_where(Expr::col(column("expires_at")).lt(now.timestamp_millis().saturating_sub(SWEEP_AFTER_MS)))
        .to_owned()
}
