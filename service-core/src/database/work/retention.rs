//! Deletes completed rows, every hour and from one replica.
//!
//! All replicas try every hour, and a row of `service_claim` decides which one deletes.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use tokio::time::Instant;

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::claim_table;
use crate::database::work::retained::{Deleted, TRY_AGAIN};
use crate::database::work::sql_text::key_text;
use crate::service::error::Result;

/// How often the rows of a table are deleted.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long a replica's turn excludes others: a little less, because the clocks of replicas and database differ.
const TURN: Duration = Duration::from_secs(3600 - 120);
/// The name in `service_claim` for the turns, whose keys are the names of the tables.
const TURNS: &str = "service_retention";

impl ServiceDb {
    /// Deletes the completed rows that need not be kept any longer, from each table whose time has come, if it is this
    /// replica's turn. Returns how many there were.
    pub async fn delete_retained(&self) -> u64 {
        let now = Instant::now();
        let mut rows = 0;
        for (table, delete, after) in self.retained.due(now) {
            let (deleted, wait) = match take_turn(self, &table).await {
                Ok(true) => {
                    let deleted = delete(&self.tx, self.clock.now(), after).await;
                    if let Ok(deleted) = &deleted {
                        self.retained.set_after(&table, deleted.after.clone());
                    }
                    (deleted, INTERVAL)
                }
                Ok(false) => (Ok(Deleted::default()), TRY_AGAIN),
                Err(error) => (Err(error), TRY_AGAIN),
            };
            rows += report(&table, deleted);
            self.retained.set_next(&table, now + wait);
        }
        rows
    }
}

/// Whether this replica is the one that deletes rows of the table now.
async fn take_turn(db: &ServiceDb, table: &str) -> Result<bool> {
    db.ensure_tables().await?;
    let tx = Transaction::begin(&db.tx).await?;
    let owner = claim_table::new_owner(&db.service_id);
    let mut is_turn = false;
    for claim in claim_table::claim(db, TURNS, &[table], &owner, TURN, 1) {
        is_turn |= !tx.connection().await?.query_all(&claim).await?.is_empty();
    }
    tx.commit().await?;
    Ok(is_turn)
}

fn report(table: &str, deleted: Result<Deleted>) -> u64 {
    match deleted {
        Ok(Deleted { rows, refused, example, .. }) => {
            if rows > 0 {
                crate::log::info!(table, rows, "completed rows older than `retain_completed` were deleted");
            }
            if let Some((key, error)) = example {
                let key = key_text(&key);
                crate::log::warn!(table, refused, key, %error, "the database refuses to delete some completed rows, these rows stay; other rows are still deleted");
            }
            rows
        }
        // Services wait for the database, and a warning says so.
        Err(error) if ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_outage) => 0,
        Err(error) => {
            crate::log::warn!(table, "completed rows cannot be deleted, retrying within an hour: {error:#}");
            0
        }
    }
}
