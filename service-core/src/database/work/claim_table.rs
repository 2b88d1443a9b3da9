//! The rows of `service_claim`: the claims of leased batches, with an owner and an expiry, by the database's clock.
//!
//! The tricky part is a row that kills its process. Claims are numbered in the order in which their rows are lent, and
//! each is released in the commit that writes its row's status. So the first claims that a dead owner left are those of
//! the rows in flight, or of the next ones. Finding them needs no extra statement. All of them are suspect, and a
//! suspect row is lent alone: if it kills its process again, it is the cause.
//!
//! In flight are the rows whose code runs, and those whose code has ended and whose status is not written yet
//! (`completions.rs`). An owner stores with its claims how many rows it has in flight at most, of both kinds.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sea_query::{
    Condition, DeleteStatement, Expr, ExprTrait, InsertStatement, LockBehavior, LockType, OnConflict, Query,
    SelectStatement, UpdateStatement, ValueTuple,
};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult};

use crate::database::db_time::DbTime;
use crate::database::error_kind::DbResult;
use crate::database::service_db::ServiceDb;
use crate::database::work::sql_text::{key_text, unnest};
use crate::schedule::NEVER;

/// Claims are removed this long after they expired: their rows no longer exist.
const SWEEP_AFTER_MS: i64 = 30 * 24 * 3_600_000;
/// How many crashes cost a row no attempt, because a process can also be killed from outside.
pub(crate) const TOLERATED_CRASHES: i64 = 2;
/// A claim has seven values, and SQLite accepts 32,766 in one statement.
const CLAIMS_A_STATEMENT: usize = 1_000;
/// The owner of a claim whose worker has died, after the crash was recorded.
const NO_OWNER: &str = "";

/// Returns a unique name for the owner of a batch's claims.
pub(crate) fn new_owner(service_id: &str) -> String {
    format!("{service_id}/{}/{:016x}", std::process::id(), fastrand::u64(..))
}

pub(super) fn millis(length: Duration) -> i64 {
    i64::try_from(length.min(NEVER).as_millis()).unwrap_or(i64::MAX / 2)
}

/// The condition for an owner's claims of rows of a table.
fn is_of(work_table: &str, owner: &str) -> Condition {
    let is = |name, value: &str| Expr::col(name).eq(value);
    Condition::all().add(is("work_table", work_table)).add(is("owner", owner))
}

/// The same without claims that a transaction has locked. If its connection is broken, the lock can stay for hours. On
/// SQLite no claim is locked.
pub(super) fn is_unlocked(work_table: &str, owner: &str, condition: Condition) -> Condition {
    let unlocked = Query::select()
        .column("row_key")
        .from("service_claim")
        .cond_where(is_of(work_table, owner).add(condition))
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .to_owned();
    is_of(work_table, owner).add(Expr::col("row_key").in_subquery(unlocked))
}

/// A row of `service_claim`.
#[derive(Debug)]
pub(crate) struct ClaimRow {
    pub(crate) key: String,
    owner: String,
    seq: i64,
    /// How many rows its owner had in flight at most.
    concurrency: i64,
    /// The claim has not expired.
    pub(crate) is_held: bool,
    /// How many processes have died over its row.
    pub(crate) crashes: i64,
}

impl ClaimRow {
    pub(crate) fn read(row: &QueryResult) -> DbResult<Self> {
        Ok(Self {
            key: row.try_get("", "row_key")?,
            owner: row.try_get("", "owner")?,
            seq: row.try_get("", "seq")?,
            concurrency: row.try_get("", "concurrency")?,
            is_held: row.try_get("", "is_held")?,
            crashes: row.try_get("", "crashes")?,
        })
    }
}

/// The query for all claims of a table.
pub(crate) fn select_claims(work_table: &str, time: &DbTime, backend: DbBackend) -> SelectStatement {
    Query::select()
        .columns(["row_key", "owner", "seq", "concurrency", "crashes"])
        .expr_as(Expr::col("expires_at").gt(time.millis(backend)), "is_held")
        .from("service_claim")
        .and_where(Expr::col("work_table").eq(work_table))
        .to_owned()
}

/// Records new crashes: for each owner whose claims have expired, one crash of each row over which it may have died.
/// The owner's other claims are removed.
pub(crate) async fn record_crashes(
    db: &impl ConnectionTrait,
    time: &DbTime,
    work_table: &str,
    claims: &mut [ClaimRow],
) -> DbResult<()> {
    let backend = db.get_database_backend();
    for (owner, suspects) in suspects(claims) {
        let keys: Vec<&str> = suspects.iter().map(|at| &*claims[*at].key).collect();
        // Checked again: the owner may have renewed its claims since they were read.
        let has_expired = || Expr::col("expires_at").lte(time.millis(backend));
        let are_free =
            |condition: Expr| is_unlocked(work_table, &owner, Condition::all().add(condition).add(has_expired()));
        let record = Query::update()
            .table("service_claim")
            .value("crashes", Expr::col("crashes").add(1))
            .value("owner", NO_OWNER)
            .cond_where(are_free(Expr::col("row_key").is_in(keys)))
            .to_owned();
        if db.execute(&record).await?.rows_affected() == 0 {
            continue;
        }
        for at in suspects {
            claims[at].crashes += 1;
        }
        let tolerated =
            Query::delete().from_table("service_claim").cond_where(are_free(Expr::col("crashes").eq(0))).to_owned();
        db.execute(&tolerated).await?;
        let counted = Query::update()
            .table("service_claim")
            .value("owner", NO_OWNER)
            .cond_where(are_free(Expr::col("crashes").gt(0)))
            .to_owned();
        db.execute(&counted).await?;
    }
    Ok(())
}

/// The positions of the claims of the rows that each dead owner may have been processing: a row that was suspect
/// already was lent alone, others as many at the same time as the owner's concurrency.
fn suspects(claims: &[ClaimRow]) -> BTreeMap<String, Vec<usize>> {
    let mut dead: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, claim) in claims.iter().enumerate().filter(|(_, claim)| !claim.is_held && claim.owner != NO_OWNER) {
        dead.entry(claim.owner.clone()).or_default().push(at);
    }
    for left in dead.values_mut() {
        left.sort_by_key(|at| claims[*at].seq);
        let lent = match left.first().map(|at| &claims[*at]) {
            Some(first) if first.crashes == 0 => usize::try_from(first.concurrency).unwrap_or(1),
            _ => 1,
        };
        let is_new = |at: &usize| claims[*at].crashes == 0;
        let lent = left.iter().take(lent).enumerate().take_while(|(n, at)| *n == 0 || is_new(at)).count();
        left.truncate(lent);
    }
    dead
}

/// Marks the claim of a row that lost an attempt for a crash: the next crash costs another attempt.
pub(crate) fn mark_charged(
    work_table: &str,
    key: &str,
    owner: &str,
    time: &DbTime,
    backend: DbBackend,
) -> UpdateStatement {
    Query::update()
        .table("service_claim")
        .value("crashes", TOLERATED_CRASHES)
        .value("owner", NO_OWNER)
        .value("expires_at", time.millis(backend))
        .cond_where(is_of(work_table, owner))
        .and_where(Expr::col("row_key").eq(key))
        .to_owned()
}

/// The statements that claim rows, in the order in which they will be lent, by an owner that has at most `in_flight` of
/// them in flight. Their results are the keys of the rows that were free.
pub(crate) fn claim(
    service_db: &ServiceDb,
    work_table: &str,
    keys: &[&str],
    owner: &str,
    lease: Duration,
    in_flight: usize,
) -> Vec<InsertStatement> {
    let backend = service_db.db().get_database_backend();
    let expires = || service_db.time.millis(backend).add(millis(lease));
    let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
    let numbered: Vec<(i64, &str)> = (0_i64..).zip(keys.iter().copied()).collect();
    let statement = |rows: &[(i64, &str)]| {
        let columns = ["work_table", "row_key", "service_id", "owner", "expires_at", "seq", "concurrency"];
        let mut insert = Query::insert().into_table("service_claim").columns(columns).to_owned();
        let claim = |key: Expr, seq: Expr| {
            let service_id = &*service_db.service_id;
            [work_table.into(), key, service_id.into(), owner.into(), expires(), seq, in_flight.into()]
        };
        if backend == DbBackend::Postgres {
            let keys = unnest(rows.iter().map(|(_, key)| (*key).to_owned()), "text[]");
            let seqs = unnest(rows.iter().map(|(seq, _)| seq.to_string()), "bigint[]");
            // It has as many columns as there are.
            let _ = insert.select_from(Query::select().exprs(claim(keys, seqs)).to_owned());
        } else {
            for &(seq, key) in rows {
                insert.values_panic(claim(key.into(), seq.into()));
            }
        }
        let has_expired = Expr::col(("service_claim", "expires_at")).lte(service_db.time.millis(backend));
        insert
            .on_conflict(
                OnConflict::columns(["work_table", "row_key"])
                    .update_columns(["service_id", "owner", "expires_at", "seq", "concurrency"])
                    .action_and_where(has_expired)
                    .to_owned(),
            )
            .returning_col("row_key")
            .to_owned()
    };
    numbered.chunks(CLAIMS_A_STATEMENT).map(statement).collect()
}

/// Releases the claim of a row. Returns whether it was still held.
pub(crate) async fn release_row(
    db: &impl ConnectionTrait,
    work_table: &str,
    key: &ValueTuple,
    owner: &str,
) -> DbResult<bool> {
    Ok(db.execute(&release(work_table, &key_text(key), owner)).await?.rows_affected() == 1)
}

/// The statement that releases one claim. It affects no row if the claim is no longer held.
pub(crate) fn release(work_table: &str, key: &str, owner: &str) -> DeleteStatement {
    Query::delete()
        .from_table("service_claim")
        .cond_where(is_of(work_table, owner))
        .and_where(Expr::col("row_key").eq(key))
        .to_owned()
}

/// Releases all claims of an owner, except those of the rows `kept`. Claims with crashes stay, without an owner, so
/// that their count is kept: such rows are last in their batches, so a batch that ends early has usually not reached
/// them. With `skip_locked`, claims that a transaction has locked stay as they are.
pub(crate) async fn release_all(
    db: &impl ConnectionTrait,
    time: &DbTime,
    work_table: &str,
    owner: &str,
    kept: &[String],
    skip_locked: bool,
) -> DbResult<()> {
    let mut claims =
        if skip_locked { is_unlocked(work_table, owner, Condition::all()) } else { is_of(work_table, owner) };
    if !kept.is_empty() {
        claims = claims.add(Expr::col("row_key").is_not_in(kept));
    }
    let tolerated = Query::delete()
        .from_table("service_claim")
        .cond_where(claims.clone())
        .and_where(Expr::col("crashes").eq(0))
        .to_owned();
    let suspect = Query::update()
        .table("service_claim")
        .value("owner", NO_OWNER)
        .value("expires_at", time.millis(db.get_database_backend()))
        .cond_where(claims)
        .to_owned();
    db.execute(&tolerated).await?;
    db.execute(&suspect).await?;
    Ok(())
}

/// The statement that removes claims that expired long ago.
pub(crate) fn sweep(work_table: &str, time: &DbTime, backend: DbBackend) -> DeleteStatement {
    Query::delete()
        .from_table("service_claim")
        .and_where(Expr::col("work_table").eq(work_table))
        .and_where(Expr::col("expires_at").lt(time.millis(backend).sub(SWEEP_AFTER_MS)))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of the rows over which `dead` may have died. Claims are `(key, crashes)`, in the order of their
    /// numbers.
    fn found(concurrency: i64, claims: &[(&str, i64)]) -> Vec<String> {
        let claim = |(seq, (key, crashes)): (usize, &(&str, i64))| ClaimRow {
            key: (*key).to_owned(),
            owner: "dead".to_owned(),
            seq: seq as i64,
            concurrency,
            is_held: false,
            crashes: *crashes,
        };
        // Read in another order than that of the numbers, and beside claims that are no evidence.
        let mut claims: Vec<ClaimRow> = claims.iter().enumerate().map(claim).rev().collect();
        for (owner, is_held) in [("alive", true), (NO_OWNER, false)] {
            let key = "other".to_owned();
            claims.push(ClaimRow { key, owner: owner.to_owned(), seq: 0, concurrency: 1, is_held, crashes: 1 });
        }
        let found = suspects(&claims);
        assert!(found.keys().all(|owner| owner == "dead"), "{found:?}");
        found.values().flatten().map(|at| claims[*at].key.clone()).collect()
    }

    #[test]
    fn the_rows_that_a_dead_owner_may_have_been_processing_are_suspect() {
        assert_eq!(found(1, &[("a", 0), ("b", 0), ("c", 1)]), ["a"]);
        assert_eq!(found(2, &[("a", 0), ("b", 0), ("c", 0)]), ["a", "b"]);
        assert_eq!(found(8, &[("a", 0), ("b", 0)]), ["a", "b"]);
        // Suspect rows come last and are lent alone.
        assert_eq!(found(3, &[("a", 0), ("b", 1), ("c", 2)]), ["a"]);
        assert_eq!(found(3, &[("b", 1), ("c", 2)]), ["b"]);
        assert_eq!(found(3, &[]), [] as [&str; 0]);
    }
}
