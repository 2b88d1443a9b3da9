//! The audit: the table `service_audit`, which records what operators change.

use std::time::{Duration, SystemTime};

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Query};
use sea_orm::{ConnectionTrait, Order, QueryResult};

use crate::database::lossy::lossy;
use crate::database::wall_clock::{format_time, parse_time};
use crate::runtime::operator_store::{AuditEntry, AuditPage, id_of};
use crate::service::error::Result;

/// How long entries are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

/// Adds an entry, unless it exists.
///
/// # Errors
/// Those of the database.
pub(crate) async fn record(db: &impl ConnectionTrait, entry: &AuditEntry) -> Result<()> {
    let AuditEntry { id, at, subject, action, detail, by, why } = entry;
    let insert = Query::insert()
        .into_table("service_audit")
        .columns(COLUMNS)
        .values_panic([
            id.as_str().into(),
            format_time((*at).into()).into(),
            subject.as_str().into(),
            action.as_str().into(),
            detail.as_str().into(),
            by.as_str().into(),
            why.as_str().into(),
        ])
        .on_conflict(OnConflict::column("id").do_nothing().to_owned())
        .to_owned();
    db.execute(&insert).await?;
    Ok(())
}

/// Removes the entries that are too old. `now` is the time of the database: the clock of a process that is wrong must
/// not remove the entries of others.
///
/// # Errors
/// Those of the database.
pub(crate) async fn remove_old(db: &impl ConnectionTrait, now: SystemTime) -> Result<()> {
    let oldest = now.checked_sub(KEPT).unwrap_or(SystemTime::UNIX_EPOCH);
    let delete = Query::delete().from_table("service_audit").and_where(Expr::col("id").lt(id_of(oldest))).to_owned();
    db.execute(&delete).await?;
    Ok(())
}

/// Returns entries, the newest first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn read(db: &impl ConnectionTrait, page: &AuditPage) -> Result<Vec<AuditEntry>> {
    let mut select = Query::select()
        .columns(COLUMNS)
        .from("service_audit")
        .order_by("id", Order::Desc)
        .limit(u64::from(page.limit))
        .to_owned();
    if let Some(subject) = &page.subject {
        select.and_where(Expr::col("subject").eq(subject.as_str()));
    }
    if let Some(before) = &page.before {
        select.and_where(Expr::col("id").lt(before.as_str()));
    }
    db.query_all(&select).await?.iter().map(entry).collect()
}

const COLUMNS: [&str; 7] = ["id", "at", "subject", "action", "detail", "set_by", "why"];

/// Reads an entry. One that was written by hand may have no valid time, or bytes that are not text: it is shown, with
/// the oldest time, and with what is written there.
fn entry(row: &QueryResult) -> Result<AuditEntry> {
    let text = |name: &str| lossy(row, name).map(Option::unwrap_or_default);
    let (at, mut detail) = (text("at")?, text("detail")?);
    let at = parse_time(&at).map_or_else(
        |_| {
            detail += &format!(" (its time is not valid: `{at}`)");
            SystemTime::UNIX_EPOCH
        },
        SystemTime::from,
    );
    Ok(AuditEntry {
        id: text("id")?,
        at,
        subject: text("subject")?,
        action: text("action")?,
        detail,
        by: text("set_by")?,
        why: text("why")?,
    })
}
