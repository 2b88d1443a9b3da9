//! [`TxHealth`]: what the statements of a transaction have shown about it so far.
//!
//! Statements are sent through a shared reference, so the flags are atomic. One statement at a time uses the
//! connection, so their order does not matter.

use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::DbErr;

use crate::database::error_kind::ErrorKind;
use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(super) struct TxHealth {
    /// A statement failed. PostgreSQL refuses all that follow until the savepoint is rolled back.
    failed: Flag,
    /// The transaction may have ended unnoticed: it is checked before the next statement.
    in_doubt: Flag,
    /// The future of a statement was, or may have been, dropped before its answer, which PostgreSQL's driver gives to
    /// the next statement.
    unanswered: Flag,
    /// A savepoint of the user's code may be open.
    nested: Flag,
    /// One was found open.
    has_savepoint: Flag,
    /// The transaction has ended. Further statements would be outside any transaction.
    ended: Flag,
    /// The condition was not met, so the transaction has not begun.
    condition_failed: Flag,
    /// The error from which the transaction cannot recover.
    interruption: Mutex<Option<ErrorKind>>,
    /// The kind of the last statement's error, if the last statement failed. Of an error that follows from an earlier
    /// one, it is the kind of the earlier one.
    last_error: Mutex<Option<ErrorKind>>,
}

impl TxHealth {
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_set()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.is_set()
    }

    pub(super) fn is_nested(&self) -> bool {
        self.nested.is_set()
    }

    pub(super) fn has_savepoint(&self) -> bool {
        self.has_savepoint.is_set()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_set()
    }

    pub(super) fn condition_failed(&self) -> bool {
        self.condition_failed.is_set()
    }

    pub(super) fn interruption(&self) -> Option<ErrorKind> {
        *self.interruption.lock()
    }

    pub(super) fn last_error(&self) -> Option<ErrorKind> {
        *self.last_error.lock()
    }

    /// Whether the writes can perhaps not be kept.
    pub(super) fn needs_proof(&self) -> bool {
        self.is_in_doubt() || self.is_nested() || self.has_failed()
    }

    /// The condition of the transaction was not met.
    pub(super) fn fail_condition(&self) {
        self.condition_failed.set();
    }

    /// The transaction has ended before its commit.
    pub(super) fn end(&self) {
        self.ended.set();
    }

    /// A statement of the user is sent next. One that may end the transaction sets it in doubt.
    pub(super) fn doubt_if_it_ends(&self, sql: &str) {
        if may_end_transaction(sql) {
            self.in_doubt.set();
        }
    }

    /// A savepoint of the user's code begins. Its statements are not seen, so afterwards the transaction is in doubt,
    /// and one of these statements may have been dropped.
    pub(super) fn nest(&self) {
        self.in_doubt.set();
        self.nested.set();
        self.unanswered.set();
    }

    /// A savepoint has ended with its callback. None is open, if there was none before.
    pub(super) fn callback_ended(&self, was_nested: bool) {
        if !was_nested {
            self.nested.clear();
        }
    }

    /// The database was asked whether a savepoint of the user's code is open.
    pub(super) fn savepoint_found(&self, found: bool) {
        self.nested.store(found);
        self.has_savepoint.store(found);
    }

    /// The item's savepoint was rolled back. It existed, so the transaction is still open.
    pub(super) fn item_undone(&self) {
        self.in_doubt.clear();
    }

    /// The transaction is still open. On PostgreSQL, what has failed was undone with its savepoint; otherwise the
    /// server would have refused the proof.
    pub(super) fn proved(&self, by_postgres: bool) {
        self.in_doubt.clear();
        if by_postgres {
            self.forget_errors();
        }
    }

    /// The statements from now on are not those of the item before.
    pub(super) fn forget_errors(&self) {
        self.failed.clear();
        *self.last_error.lock() = None;
    }

    /// Whether the next answer may be that of an earlier statement. Returns this once for each such statement; while a
    /// savepoint of the user's code may be open, always.
    pub(super) fn take_unanswered(&self) -> bool {
        self.unanswered.take() || self.is_nested()
    }

    /// A statement is sent. If the result is dropped before the answer has arrived, the transaction is in doubt.
    pub(super) fn answer(&self) -> Answer<'_> {
        Answer { health: self, has_arrived: false }
    }

    /// A statement succeeded.
    pub(super) fn succeeded(&self) {
        // The usual path takes no lock.
        if self.has_failed() {
            *self.last_error.lock() = None;
        }
    }

    /// A statement failed.
    pub(super) fn note(&self, error: &DbErr, kind: ErrorKind) {
        self.failed.set();
        // 25P02: PostgreSQL refuses this statement because an earlier one has failed, and that one is the cause.
        if ErrorKind::has_code(error, "25P02") {
            return;
        }
        *self.last_error.lock() = Some(kind);
        if kind.is_outage() {
            self.interrupt(kind);
        }
    }

    /// The transaction cannot recover from this error. The first one is kept.
    pub(super) fn interrupt(&self, kind: ErrorKind) {
        self.interruption.lock().get_or_insert(kind);
    }
}

/// The answer of a statement.
pub(super) struct Answer<'a> {
    health: &'a TxHealth,
    has_arrived: bool,
}

impl Answer<'_> {
    pub(super) fn arrived(mut self) {
        self.has_arrived = true;
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if !self.has_arrived {
            self.health.unanswered.set();
            self.health.in_doubt.set();
        }
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.store(true);
    }

    fn clear(&self) {
        self.store(false);
    }

    fn store(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Whether a statement may end a transaction, by its first word.
fn may_end_transaction(sql: &str) -> bool {
    sql.split(';').any(|statement| {
        let statement = statement.trim_start();
        let word = statement.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        // A comment may stand before the word.
        statement.starts_with("--")
            || statement.starts_with("/*")
            || ["ROLLBACK", "COMMIT", "END", "ABORT", "PREPARE"].iter().any(|end| word.eq_ignore_ascii_case(end))
    })
}
