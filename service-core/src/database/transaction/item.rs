//! The savepoint of an item: what belongs to one item of a batch is kept or undone without the others.

use std::sync::atomic::Ordering;

use sea_orm::{ConnectionTrait, ExecResult, StatementBuilder};
use tokio::sync::OnceCell;

use super::{Transaction, ended};
use crate::database::error_kind::DbResult;
use crate::database::statement_monitor::MonitoredTx;

impl Transaction {
    /// Returns the open transaction, and sets the item's savepoint before the item's first statement.
    pub(super) async fn item_connection(&self) -> DbResult<&MonitoredTx> {
        let tx = self.connection().await?;
        if let Some(savepoint) = &self.savepoint
            && !savepoint.initialized()
        {
            savepoint
                .get_or_try_init(|| async {
                    let sql = if self.stale_savepoint.swap(false, Ordering::Relaxed) {
                        "RELEASE SAVEPOINT service_item; SAVEPOINT service_item"
                    } else {
                        "SAVEPOINT service_item"
                    };
                    self.track(tx.execute_unprepared(sql)).await.map(drop)
                })
                .await?;
        }
        Ok(tx)
    }

    /// From now on, statements belong to one item.
    pub(crate) fn begin_item(&mut self) {
        self.end_item();
        self.savepoint = Some(OnceCell::new());
    }

    /// Keeps the item's writes.
    ///
    /// # Errors
    /// One of its statements had failed, so they cannot be kept.
    pub(crate) async fn keep_item(&mut self) -> DbResult<()> {
        if self.needs_proof() {
            self.prove().await?;
        }
        self.end_item();
        Ok(())
    }

    /// Undoes the item's writes.
    pub(crate) async fn undo_item(&mut self) -> DbResult<()> {
        if self.savepoint.as_ref().is_some_and(OnceCell::initialized) {
            let Some(open) = self.tx.get().filter(|_| !self.has_ended()) else {
                return Err(ended());
            };
            self.take_answer(&open.tx).await;
            self.track(open.tx.execute_unprepared("ROLLBACK TO SAVEPOINT service_item")).await?;
            open.tx.savepoint_ended();
            self.health.item_undone();
            if self.is_nested() {
                // Such as one that is dropped after the item was settled with its error.
                Box::pin(self.finds_savepoint()).await?;
            }
        }
        self.notifications.lock().undo();
        self.end_item();
        Ok(())
    }

    fn end_item(&mut self) {
        self.notifications.lock().keep();
        if self.savepoint.as_ref().is_some_and(OnceCell::initialized) {
            self.stale_savepoint.store(true, Ordering::Relaxed);
        }
        self.savepoint = None;
        self.health.forget_errors();
    }

    /// Executes a statement of the framework in a savepoint, so that its failure does not affect the rest.
    pub(crate) async fn execute_in_savepoint(&self, statement: &impl StatementBuilder) -> DbResult<ExecResult> {
        let tx = self.connection().await?;
        self.track(tx.execute_unprepared("SAVEPOINT service_note")).await?;
        match tx.execute(statement).await {
            Ok(done) => {
                self.track(tx.execute_unprepared("RELEASE SAVEPOINT service_note")).await?;
                Ok(done)
            }
            Err(error) => {
                self.track(tx.execute_unprepared("ROLLBACK TO SAVEPOINT service_note; RELEASE SAVEPOINT service_note"))
                    .await?;
                Err(error)
            }
        }
    }
}
