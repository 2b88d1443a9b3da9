//! Savepoints of the user's code that are still open.
//!
//! `begin()` on a transaction returns a transaction of sea-orm, which is a savepoint. The driver counts the
//! transactions of a connection, and names each savepoint by that count: the first is `_sqlx_savepoint_1`. A commit, a
//! rollback or a drop ends the innermost savepoint, whichever object it is called on. So a commit of the outer
//! transaction would only release a savepoint that is still open, and report success; and the later drop of that
//! savepoint would undo what was written in the meantime.
//!
//! The tricky part is to find out whether one is open: the count cannot be read, and a savepoint that was rolled back
//! still exists for the database. So a further savepoint is begun, whose name shows the count.

use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};

use crate::database::error_kind::DbResult;

/// The driver's names of up to four savepoints inside each other.
const COVER: &str = "SAVEPOINT _sqlx_savepoint_1; SAVEPOINT _sqlx_savepoint_2; SAVEPOINT _sqlx_savepoint_3; SAVEPOINT _sqlx_savepoint_4";

/// Sets savepoints with the driver's names, so that the end of one that is still open changes nothing that was written
/// so far.
pub(super) async fn cover(tx: &impl ConnectionTrait) -> DbResult<()> {
    tx.execute_unprepared(COVER).await.map(drop)
}

/// Whether a savepoint of a transaction is open. If one is, it is covered.
pub(super) async fn is_open(tx: &DatabaseTransaction) -> DbResult<bool> {
    tx.execute_unprepared(&format!("{COVER}; SAVEPOINT service_proof")).await?;
    let next = tx.begin().await?;
    // If none is open, `next` has the first name and comes after `service_proof`. Otherwise the name is that of the
    // cover, and `service_proof` does not exist any more.
    let is_open = tx
        .execute_unprepared("ROLLBACK TO SAVEPOINT _sqlx_savepoint_1; RELEASE SAVEPOINT service_proof")
        .await
        .is_err();
    if is_open {
        tx.execute_unprepared(&format!("ROLLBACK TO SAVEPOINT _sqlx_savepoint_1; {COVER}")).await?;
    }
    next.rollback().await?;
    Ok(is_open)
}

/// Rolls back a transaction on PostgreSQL, also if savepoints are open. The end of these then ends an empty
/// transaction.
pub(super) async fn roll_back(tx: DatabaseTransaction) -> DbResult<()> {
    tx.execute_unprepared(&format!("ROLLBACK; BEGIN READ ONLY; {COVER}")).await?;
    // If the driver counts no transaction, it counts this one, and ends it.
    tx.begin().await?.rollback().await?;
    tx.rollback().await
}
