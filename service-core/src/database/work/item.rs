//! [`Item`]: one claimed row, while user code processes it.

use std::error::Error as StdError;

use sea_orm::EntityTrait;
use tokio::time::Instant;

use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RowRef};
use crate::service::error::{Error, Result};

/// One claimed row.
#[derive(Debug)]
pub struct Item<E: EntityTrait> {
    model: E::Model,
    pub(super) row: RowRef,
    pub(super) tx: Transaction,
    /// The item was lent, and its result is not written yet.
    pub(super) in_flight: bool,
    /// When it was lent.
    pub(super) began: Instant,
    /// It has failed by an error of its own, which may not be written yet.
    pub(super) failure: Option<FailedAttempt>,
}

impl<E: EntityTrait> Item<E> {
    /// An item that is lent now.
    pub(super) fn new(model: E::Model, row: RowRef, tx: Transaction) -> Self {
        Self { model, row, tx, in_flight: true, began: Instant::now(), failure: None }
    }

    /// Returns the row as it was when it was claimed.
    pub fn model(&self) -> &E::Model {
        &self.model
    }

    /// Returns the transaction for this item's writes. They are kept if the item succeeds, and undone if it fails.
    ///
    /// With `claim_each` it begins with its first statement. On SQLite it holds the write lock from then on.
    pub fn tx(&self) -> &Transaction {
        &self.tx
    }

    /// Returns the number of this attempt, from 1. It is always 1 if the table does not count attempts.
    pub fn attempt(&self) -> u64 {
        u64::try_from(self.row.attempts).unwrap_or(0) + 1
    }
}

/// What the code of an item may return: `()`, or `Result<T, E>` with any value and any error.
#[diagnostic::on_unimplemented(
    message = "an item cannot be settled with `{Self}`",
    label = "not a result of an item",
    note = "use `()` or `Result<(), E>`, where `E` converts into a boxed error"
)]
pub trait IntoSettled {
    /// Converts into success, or the error of a failed item.
    ///
    /// # Errors
    /// The item failed.
    fn into_settled(self) -> Result<()>;
}

#[diagnostic::do_not_recommend]
impl IntoSettled for () {
    fn into_settled(self) -> Result<()> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T, E: Into<Box<dyn StdError + Send + Sync>> + 'static> IntoSettled for std::result::Result<T, E> {
    fn into_settled(self) -> Result<()> {
        self.map(drop).map_err(Error::new)
    }
}
