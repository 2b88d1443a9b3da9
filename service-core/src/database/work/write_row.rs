//! Writes the status of one row that did not complete, also if its table refuses some of the values.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{SelectStatement, ValueTuple};
use sea_orm::{ConnectionTrait, DbErr, StatementBuilder};

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RetryDecision, RowRef};
use crate::database::work::sql::TableSql;
use crate::service::error::Error;

/// The lengths of the shorter messages, in characters.
const SHORT: [usize; 2] = [200, 40];

/// The result of writing the status of a row.
#[derive(Debug)]
pub(crate) enum Written {
    Done,
    /// The row is no longer as it was claimed.
    Changed,
    /// The database keeps the row as it is, for this reason.
    Refused(String),
}

/// Writes that a row failed. If the database refuses the message, tries shorter ones, and then none.
pub(crate) async fn write_failure(
    tx: &Transaction,
    table: &TableSql,
    row: &RowRef,
    failed: &FailedAttempt,
    now: DateTime<Utc>,
) -> DbResult<Written> {
    let decision = failed.decision;
    let update = |message: Option<&str>| table.fail(&row.key, row.attempts, decision, message, now);
    match try_messages(tx, &failed.message, update).await? {
        UpdateResult::Changed if decision == RetryDecision::Failed => unless_kept(tx, &table.pending(&row.key)).await,
        UpdateResult::Changed => Ok(Written::Done),
        // SQLite does not count the rows that the triggers of a view change.
        UpdateResult::Unchanged if finds(tx, &table.as_failed(row, decision)).await? => Ok(Written::Done),
        UpdateResult::Unchanged => match unless_kept(tx, &table.as_claimed(row)).await? {
            Written::Done => Ok(Written::Changed),
            refused => Ok(refused),
        },
        UpdateResult::Refused(why) => Ok(Written::Refused(why)),
    }
}

/// Writes that a row cannot be read.
pub(crate) async fn write_unreadable(
    tx: &Transaction,
    table: &TableSql,
    key: &ValueTuple,
    message: &str,
    now: DateTime<Utc>,
) -> DbResult<Written> {
    match try_messages(tx, message, |message| table.fail_unreadable(key, message, now)).await? {
        UpdateResult::Changed => unless_kept(tx, &table.pending(key)).await,
        UpdateResult::Unchanged => match unless_kept(tx, &table.pending(key)).await? {
            Written::Done => Ok(Written::Changed),
            refused => Ok(refused),
        },
        UpdateResult::Refused(why) => Ok(Written::Refused(why)),
    }
}

/// The result of the commit of a row's failure. A constraint may be checked only then.
pub(crate) fn committed(result: Result<(), Error>) -> Result<Written, Error> {
    match result {
        Ok(()) => Ok(Written::Done),
        Err(error) => refusal(&error).map(Written::Refused).ok_or(error),
    }
}

/// Why the database refused a commit. `None`: it failed for another cause.
pub(crate) fn refusal(commit: &Error) -> Option<String> {
    let refused = commit.find::<DbErr>()?;
    (ErrorKind::of_own(refused) == ErrorKind::Statement).then(|| refused.to_string())
}

/// The result of an update of one row.
enum UpdateResult {
    Changed,
    Unchanged,
    Refused(String),
}

async fn try_messages<S: StatementBuilder>(
    tx: &Transaction,
    message: &str,
    update: impl Fn(Option<&str>) -> S,
) -> DbResult<UpdateResult> {
    let ascii: String = message.chars().map(|c| if c.is_ascii() && c != '\0' { c } else { '?' }).collect();
    let short = SHORT.map(|length| Some(&ascii[..ascii.len().min(length)]));
    let mut refused = String::new();
    for message in [Some(message), short[0], short[1], None] {
        match tx.execute_in_savepoint(&update(message)).await {
            Ok(done) if done.rows_affected() > 0 => return Ok(UpdateResult::Changed),
            Ok(_) => return Ok(UpdateResult::Unchanged),
            Err(error) if ErrorKind::of_own(&error) != ErrorKind::Statement => return Err(error),
            Err(error) => refused = error.to_string(),
        }
    }
    Ok(UpdateResult::Refused(refused))
}

/// Checks whether a trigger or a rule has kept the row pending, which causes no error: the query finds it then.
async fn unless_kept(tx: &Transaction, still_pending: &SelectStatement) -> DbResult<Written> {
    Ok(match finds(tx, still_pending).await? {
        true => Written::Refused("an update leaves it pending: a trigger or a rule keeps it".to_owned()),
        false => Written::Done,
    })
}

async fn finds(tx: &Transaction, select: &SelectStatement) -> DbResult<bool> {
    Ok(tx.connection().await?.query_one(select).await?.is_some())
}
