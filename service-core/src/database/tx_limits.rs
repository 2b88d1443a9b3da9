//! What limits the transaction of an item of `claim_each`: its turn in the queue of its batch ([`QueuePlace`]), and the
//! time limit of the item ([`TimeLimit`]).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::database::error_kind::DbResult;
use crate::sync::Mutex;

/// The transactions of a batch on SQLite that begin one after the other: those of the items in flight at the same time.
pub(crate) type TxQueue = Arc<Semaphore>;

/// The place of one transaction in the queue of its batch. It waits without a limit, because the items before it have
/// one, or need none.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    queue: TxQueue,
    wait: Mutex<Wait>,
}

#[derive(Debug, Default)]
struct Wait {
    before: Duration,
    /// Since when the transaction waits now.
    since: Option<Instant>,
}

impl QueuePlace {
    pub(crate) fn new(queue: TxQueue) -> Self {
        Self { queue, wait: Mutex::default() }
    }

    /// Waits for the turn, which lasts until the result is dropped.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.wait.lock().since = Some(Instant::now());
        let _end = EndWait(self);
        Arc::clone(&self.queue).acquire_owned().await.ok()
    }

    /// How long the transaction has waited so far.
    pub(crate) fn time(&self) -> Duration {
        let wait = self.wait.lock();
        wait.before + wait.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Ends a wait, also if the future that waits is dropped.
struct EndWait<'a>(&'a QueuePlace);

impl Drop for EndWait<'_> {
    fn drop(&mut self) {
        let mut wait = self.0.wait.lock();
        if let Some(since) = wait.since.take() {
            wait.before += since.elapsed();
        }
    }
}

/// When the code of an item has to be done. On PostgreSQL, its statements end then, too.
#[derive(Debug)]
pub(crate) struct TimeLimit {
    deadline: Instant,
    /// The limit of statements that applied before.
    before: OnceLock<String>,
}

impl TimeLimit {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, before: OnceLock::new() }
    }

    /// Limits each statement of a transaction on PostgreSQL to the time that is left, unless a shorter limit applies
    /// already.
    pub(crate) async fn apply(&self, tx: &impl ConnectionTrait) -> DbResult<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
        let now = "current_setting('statement_timeout')";
        // One text for every item, which is prepared once.
        let sql = format!(
            "SELECT {now} AS before, set_config('statement_timeout', CASE WHEN {now}::interval BETWEEN '1 microsecond' \
             AND ($1::text || ' milliseconds')::interval THEN {now} ELSE $1::text END, true) AS applied"
        );
        let limit = Statement::from_sql_and_values(DbBackend::Postgres, sql, [left.to_string().into()]);
        if let Some(row) = tx.query_one_raw(limit).await? {
            let _ = self.before.set(row.try_get("", "before")?);
        }
        Ok(())
    }

    /// The statement that ends the limit, if there is one.
    pub(crate) fn end(&self) -> Option<String> {
        self.before.get().map(|before| format!("SET LOCAL statement_timeout = '{before}'; "))
    }
}
