//! The proof that the writes of a transaction can be kept: it is still open, and so is no savepoint of the user's code.

use sea_orm::{DbBackend, DbErr};

use super::{Transaction, ended};
use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::savepoints;
use crate::database::statement_monitor::MonitoredTx;

/// Two statements that PostgreSQL accepts only inside a transaction without a failed statement.
const PROOF: &str = "SAVEPOINT service_proof; RELEASE SAVEPOINT service_proof";

impl Transaction {
    /// Whether its writes can perhaps not be kept.
    pub(super) fn needs_proof(&self) -> bool {
        self.has_begun() && self.health.needs_proof()
    }

    /// Checks that the writes so far can be committed: the transaction is still open, if it can have ended, and no
    /// savepoint of the user's code is. After an error, PostgreSQL answers `COMMIT` with a silent rollback, and outside
    /// a transaction each statement commits by itself on both engines.
    ///
    /// # Errors
    /// The transaction has ended; or, on PostgreSQL, a statement has failed since the last savepoint; or a savepoint is
    /// open.
    pub(crate) async fn prove(&self) -> DbResult<()> {
        self.check_open("").await?;
        self.check_savepoints().await
    }

    /// Ends the time limit, because the user's code is done, and checks what [`prove`](Self::prove) checks.
    ///
    /// # Errors
    /// As [`prove`](Self::prove).
    pub(crate) async fn end_time_limit(&mut self) -> DbResult<()> {
        let end = self.time_limit.take().and_then(|limit| limit.end());
        self.check_open(end.as_deref().unwrap_or_default()).await?;
        self.check_savepoints().await
    }

    /// Checks that the transaction is still open, in one round trip with a statement before it.
    pub(super) async fn check_open(&self, statement: &str) -> DbResult<()> {
        let Some(open) = self.tx.get() else { return Ok(()) };
        if self.has_ended() {
            return Err(ended());
        }
        let is_proved = self.take_answer(&open.tx).await;
        let is_certain = !self.health.is_in_doubt() && !self.health.has_failed();
        if self.backend == DbBackend::Postgres && statement.is_empty() && is_certain {
            // Only a failed statement, or one of the user, ends a transaction while its connection exists.
            return Ok(());
        }
        let stands = match self.backend {
            // Inside a transaction, a second BEGIN fails. Outside it succeeds, and then no further statement commits by
            // itself.
            DbBackend::Sqlite => open.tx.execute_unprepared("BEGIN").await.is_err(),
            _ if is_proved && statement.is_empty() => true,
            _ => match open.tx.execute_unprepared(&format!("{statement}{PROOF}")).await {
                Ok(_) => true,
                // 25P01: no active transaction. After 25P02, a failed statement, the savepoint can still be rolled
                // back.
                Err(error) if ErrorKind::has_code(&error, "25P01") => false,
                Err(error) => return Err(error),
            },
        };
        if stands {
            open.tx.savepoint_ended();
            self.health.proved(self.backend == DbBackend::Postgres);
            return Ok(());
        }
        self.health.end();
        Err(ended())
    }

    /// Takes the answer of a statement whose future was dropped, so that it does not become the answer of the next one.
    /// Returns whether the transaction is proved to be open by that. The statements of an open savepoint are not
    /// tracked, so one of them may have been dropped.
    pub(super) async fn take_answer(&self, tx: &MonitoredTx) -> bool {
        if !self.health.take_unanswered() || self.backend != DbBackend::Postgres {
            return false;
        }
        let answer = tx.execute_unprepared(PROOF).await;
        if let Err(error) = &answer {
            self.health.note(error, ErrorKind::of_user(error));
        }
        answer.is_ok()
    }

    /// Checks that no savepoint of the user's code is open.
    ///
    /// # Errors
    /// One is open.
    pub(crate) async fn check_savepoints(&self) -> DbResult<()> {
        if self.is_nested() && Box::pin(self.finds_savepoint()).await? {
            return Err(DbErr::Custom(
                "a savepoint of this transaction is still open, so its writes are undone: commit or drop what `begin()` returned \
                 before the transaction is committed, or before its item is settled"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) async fn finds_savepoint(&self) -> DbResult<bool> {
        let Some(open) = self.tx.get() else { return Ok(false) };
        let found = self.track(savepoints::is_open(open.tx.for_savepoint())).await?;
        if !found {
            open.tx.savepoint_ended();
        }
        self.health.savepoint_found(found);
        Ok(found)
    }

    /// Protects what was written so far from the end of a savepoint that was found open.
    pub(crate) async fn cover_savepoint(&self) -> DbResult<()> {
        match self.tx.get().filter(|_| self.has_savepoint()) {
            Some(open) => self.track(savepoints::cover(&open.tx)).await,
            None => Ok(()),
        }
    }
}
