//! [`Batch`]: processing claimed rows.
//!
//! A batch of `claim` is one transaction: an item's writes have a savepoint, failures are written at once, and all rows
//! that succeeded become `completed` in one statement at the end (`together.rs`). A batch of `claim_each` holds a lease
//! instead, and each item has a transaction of its own (`leased.rs`).

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use sea_orm::sea_query::ValueTuple;
use sea_orm::{DbErr, EntityTrait, QueryResult};

use crate::database::transaction::Transaction;
use crate::database::work::attempt::RowRef;
use crate::database::work::claim_table;
use crate::database::work::item::{IntoSettled, Item};
use crate::database::work::key_check;
use crate::database::work::lease::RowLease;
use crate::database::work::row::{self, ClaimedRow, Rows, UnreadableRows};
use crate::database::work::settler::{Settled, Settler};
use crate::database::work::sql_text::key_text;
use crate::database::work::work_item::WorkItem;
use crate::database::work::write_row::{self, Written, write_unreadable};
use crate::service::error::{Error, Result};
use crate::service::outcome::Outcome;

/// Rows claimed by one run. Take its items with [`next`](Batch::next), settle each, and [`commit`](Batch::commit).
///
/// If it is dropped instead, by `?`, a panic or a timeout, uncommitted writes are undone, the row in flight loses an
/// attempt (or becomes `failed`), and the next run claims the others again. If all items of a batch of `claim` were
/// settled, and the run succeeds without `commit`, a warning says so.
///
/// ```
/// # mod order {
/// #     use sea_orm::entity::prelude::*;
/// #     #[derive(Clone, Debug, PartialEq, DeriveEntityModel, service_core::WorkItem)]
/// #     #[sea_orm(table_name = "shop_order")]
/// #     #[work_item(status = "status")]
/// #     pub struct Model { #[sea_orm(primary_key)] pub id: i64, pub status: String }
/// #     #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
/// #     pub enum Relation {}
/// #     impl ActiveModelBehavior for ActiveModel {}
/// # }
/// use service_core::prelude::*;
///
/// # async fn pack(_order: &order::Model) -> std::io::Result<()> { Ok(()) }
/// async fn update(cx: &Context) -> Result<Outcome> {
///     let mut batch = cx.claim::<order::Entity>(100).await?;
///     while let Some(item) = batch.next().await? {
///         let packed = pack(item.model()).await;
///         item.settle(packed).await?;
///     }
///     batch.commit().await
/// }
/// ```
#[derive(Debug)]
pub struct Batch<E: EntityTrait> {
    /// The item that was lent last. Dropped before the settler.
    current: Option<Item<E>>,
    pub(super) settler: Settler,
    /// The transaction of the batch, while no item has it.
    tx: Option<Transaction>,
    unlent: Unlent<E>,
    pub(super) tally: Tally,
    /// All rows were lent and settled, and `commit` was not called yet.
    awaits_commit: bool,
}

/// The rows that were not lent.
#[derive(Debug)]
pub(super) struct Unlent<E: EntityTrait> {
    rows: Rows<E>,
    /// There were more, but their claims have expired.
    have_expired: bool,
}

impl<E: EntityTrait> Unlent<E> {
    /// Returns the next row without taking it.
    pub(super) fn first(&self) -> Option<&ClaimedRow<E>> {
        self.rows.front()
    }

    /// Takes the next row. If the claims have expired, drops all rows, because other workers may have claimed them.
    pub(super) fn take(&mut self, settler: &Settler) -> Option<ClaimedRow<E>> {
        if !self.rows.is_empty() && settler.lease.as_ref().is_some_and(RowLease::is_lost) {
            let (table, rows, service_id) = (&settler.table.name, self.rows.len(), &*settler.service_db.service_id);
            crate::log::warn!(
                service.id = service_id,
                table,
                rows,
                "the claims expired before their rows were lent (the process was suspended, or the database was down); other workers can claim the rows"
            );
            self.rows.clear();
            self.have_expired = true;
        }
        self.rows.pop_front()
    }

    fn are_left(&self) -> bool {
        self.have_expired || !self.rows.is_empty()
    }
}

/// The results of a batch so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The rows to complete when the batch is committed.
    pub(super) done: Vec<RowRef>,
    /// The row of a `claim` that failed last.
    pub(super) last_failed: Option<ValueTuple>,
    /// The rows that cannot be read.
    unreadable: Vec<ValueTuple>,
    pub(super) processed: u64,
    pub(super) failed: u64,
    pub(super) more: bool,
    /// Why the table refused `completed`, if it has completed no row.
    pub(super) refused: Option<Error>,
}

impl Tally {
    /// Counts an item's result.
    pub(super) fn add(&mut self, settled: Settled) {
        match settled {
            Settled::Completed => self.processed += 1,
            Settled::Failed => self.failed += 1,
            Settled::Skipped => {}
            Settled::Refused(refusal) => {
                self.failed += 1;
                self.refused = Some(refusal);
            }
        }
    }
}

/// An [`Item`] that was lent by [`Batch::next`]. If it is dropped without being settled, it has failed (`not settled`).
#[derive(Debug)]
pub struct BatchItem<'a, E: EntityTrait> {
    item: &'a mut Item<E>,
    settler: &'a Settler,
    tally: &'a mut Tally,
}

impl<E: EntityTrait> Deref for BatchItem<'_, E> {
    type Target = Item<E>;

    fn deref(&self) -> &Item<E> {
        self.item
    }
}

impl<E: EntityTrait<Model: Sync>> BatchItem<'_, E> {
    /// How long the code of `for_each_with` may take.
    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.settler.item_timeout
    }

    /// Reports the item's result: `()`, or any `Result`.
    ///
    /// `Ok`: the row becomes `completed`, in one commit with the item's writes. `Err`: the writes are undone; while
    /// attempts are left, the row is `pending` again, after a wait, else it becomes `failed`. The message is the error
    /// with all its causes.
    ///
    /// `Error::fatal` means no further attempt; `Error::retry_after` sets the wait. An error that is not the row's own,
    /// such as a deadlock or a read-only server, costs no attempt.
    ///
    /// Await it to its end. If the future is dropped, the item counts as not settled: it loses an attempt (or becomes
    /// `failed`), unless the commit of its status has begun (`claim_each`).
    ///
    /// # Errors
    /// Only errors of the database: return them with `?`. A failed item is not an error of the batch.
    pub fn settle<R: IntoSettled>(self, result: R) -> impl Future<Output = Result<()>> + Send {
        // Converted before the first await, because the result need not be `Send`.
        let result = result.into_settled();
        async move {
            let settled = self.settler.settle(self.item, result).await?;
            match settled {
                Settled::Completed if self.settler.lease.is_none() => self.tally.done.push(self.item.row.clone()),
                Settled::Failed if self.settler.lease.is_none() => {
                    self.tally.last_failed = Some(self.item.row.key.clone())
                }
                _ => {}
            }
            self.tally.add(settled);
            Ok(())
        }
    }
}

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    /// A batch of leased rows, or one without rows.
    pub(crate) fn new(settler: Settler) -> Self {
        let unlent = Unlent { rows: Rows::new(), have_expired: false };
        Self { current: None, settler, tx: None, unlent, tally: Tally::default(), awaits_commit: false }
    }

    /// A batch that is one transaction, which has begun.
    pub(crate) fn in_transaction(settler: Settler, tx: Transaction) -> Self {
        let mut batch = Self::new(settler);
        batch.tx = Some(tx.of_batch());
        batch
    }

    fn lease(&self) -> Option<&RowLease> {
        self.settler.lease.as_ref()
    }

    /// Adds rows that lost an attempt before they were lent, and whether there are more rows.
    pub(crate) fn add_charged(&mut self, charged: u64, more: bool) {
        self.tally.failed += charged;
        self.tally.more |= more;
    }

    /// Commits the writes of [`take`](Self::take) for a leased batch.
    pub(crate) async fn commit_taken(&mut self) -> Result<()> {
        let committed = self.take_tx().commit().await;
        if let Some(why) = committed.as_ref().err().and_then(write_row::refusal) {
            // Without these rows, the next claim succeeds.
            for key in &self.tally.unreadable {
                self.settler.leave_out(key, &format!("it cannot be read, and its status cannot be written: {why}"));
            }
        }
        committed
    }

    /// Takes the transaction of the batch.
    pub(super) fn take_tx(&mut self) -> Transaction {
        let tx = self.current.take().map(|item| item.tx).or_else(|| self.tx.take());
        tx.unwrap_or_else(|| self.settler.lazy_tx())
    }

    /// Returns the next item; `None` if there are no more, or if the table has refused to set a row to `completed`. If
    /// the previous item was not settled, it is recorded as failed (`not settled`). If the future is dropped, the rows
    /// that were not returned keep their attempts.
    ///
    /// # Errors
    /// Those of the database: return them with `?`.
    pub async fn next(&mut self) -> Result<Option<BatchItem<'_, E>>> {
        self.fail_unsettled().await?;
        self.check_savepoints().await?;
        if self.tally.refused.is_some() {
            return Ok(None);
        }
        let Some(claimed) = self.unlent.take(&self.settler) else {
            self.awaits_commit = true;
            return Ok(None);
        };
        let item = match self.lease() {
            Some(_) => self.settler.leased_item(claimed),
            None => {
                let mut tx = self.take_tx();
                tx.begin_item();
                Item::new(claimed.model, claimed.row, tx)
            }
        };
        let Self { current, settler, tally, .. } = self;
        Ok(Some(BatchItem { item: current.insert(item), settler, tally }))
    }

    /// What several items in flight share.
    pub(super) fn parts(&mut self) -> (&Settler, &mut Unlent<E>, &mut Tally) {
        (&self.settler, &mut self.unlent, &mut self.tally)
    }

    /// Returns the number of rows that have not been lent.
    pub fn remaining(&self) -> usize {
        self.unlent.rows.len()
    }

    /// Commits the batch. The outcome counts the items that completed and those that failed, also if these will be
    /// retried. It is [`again`](Outcome::again) if more rows are due, or if items were not lent.
    ///
    /// Once the commit has begun, it continues even if this future is dropped.
    ///
    /// # Errors
    /// The database refused the commit. Then nothing of a `claim` was written; the next runs claim the same rows one by
    /// one, so that only the row that is the cause loses an attempt.
    pub async fn commit(mut self) -> Result<Outcome> {
        self.awaits_commit = false;
        self.fail_unsettled().await?;
        let again = self.tally.more || self.unlent.are_left();
        if self.lease().is_none() {
            self.commit_together(again).await?;
        } else {
            if self.unlent.are_left() {
                // The batch keeps the lease until the claims are released: if this fails, its drop records them.
                self.settler.release_unlent().await?;
            }
            self.settler.end_lease();
        }
        let mut again = again || self.tally.more;
        let Settler { service_db, table, .. } = &self.settler;
        let are_postponed = service_db.work.are_postponed(table);
        if self.tally.failed > 0 || are_postponed {
            // While something is down that the service needs, the schedule gives the pace.
            again = match service_db.continue_after_outage() {
                true => again && self.tally.processed > 0,
                false => again || are_postponed,
            };
        }
        if let Some(error) = self.tally.refused.take().filter(|_| self.tally.processed == 0) {
            return Err(error);
        }
        let outcome = Outcome::processed(self.tally.processed).failed(self.tally.failed);
        Ok(if again { outcome.again() } else { outcome })
    }

    /// Ends the batch if a savepoint of an earlier item is still open: its end would undo what later items write.
    async fn check_savepoints(&mut self) -> Result<()> {
        let Some(Err(error)) = (match &self.current {
            Some(item) => Some(item.tx.check_savepoints().await),
            None => None,
        }) else {
            return Ok(());
        };
        let _ = self.take_tx().rollback().await;
        self.unlent.rows.clear();
        self.tally = Tally { more: true, ..Tally::default() };
        Err(error.into())
    }

    async fn fail_unsettled(&mut self) -> Result<()> {
        if let Some(item) = self.current.as_mut().filter(|item| item.in_flight) {
            let settled = Box::pin(self.settler.fail(item, &Error::msg("not settled"))).await?;
            if self.settler.lease.is_none() {
                self.tally.last_failed = Some(item.row.key.clone());
            }
            self.tally.add(settled);
        }
        Ok(())
    }
}

impl<E: WorkItem> Batch<E> {
    /// Takes the claimed rows. The last of them, `suspects` in number, are suspect.
    ///
    /// # Errors
    /// No row can be read, a column has another type than in the entity, or a key does not find its row. The rows stay
    /// as they are.
    pub(crate) async fn take(
        &mut self,
        rows: Vec<QueryResult>,
        wanted: u64,
        evidence: &[QueryResult],
        suspects: usize,
    ) -> Result<()> {
        let first_suspect = rows.len().saturating_sub(suspects);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.tally.more |= rows.len() > wanted;
        let mut unreadable = Vec::new();
        for (at, row) in rows.iter().take(wanted).enumerate() {
            match row::read::<E>(row) {
                Ok(claimed) => self.unlent.rows.push_back(ClaimedRow { is_suspect: at >= first_suspect, ..claimed }),
                Err(error) => unreadable.push((row, error)),
            }
        }
        if self.lease().is_none() {
            let tx = self.take_tx();
            let keys = self.unlent.rows.iter().map(|claimed| &claimed.row.key);
            let not_found = key_check::not_found::<E>(tx.connection().await?, &self.settler.table, keys).await;
            self.tx = Some(tx);
            if let Some(not_found) = not_found? {
                return Err(self.refuse(Error::new(not_found)).await);
            }
        }
        let Some((_, first)) = unreadable.first() else { return Ok(()) };
        let is_column = self.settler.table.backend == sea_orm::DbBackend::Postgres
            && unreadable.iter().any(|(_, error)| row::is_type_mismatch(error));
        // The row after those that were requested is evidence, too.
        let is_readable = |row: &QueryResult| row::read::<E>(row).is_ok();
        if is_column || self.unlent.rows.is_empty() && !rows.iter().chain(evidence).any(is_readable) {
            let table = self.settler.table.name.clone();
            return Err(self.refuse(Error::new(UnreadableRows { table, source: first.clone() })).await);
        }
        let tx = self.take_tx();
        for (row, error) in unreadable {
            self.set_unreadable(&tx, row, &error).await?;
        }
        self.tx = Some(tx);
        Ok(())
    }

    /// Leaves all rows as they are, because the table does not fit the entity.
    async fn refuse(&mut self, why: Error) -> Error {
        self.unlent.rows.clear();
        // Awaited, because the next claim skips rows that are still locked, and would take rows after them.
        let _ = self.take_tx().rollback().await;
        why
    }

    /// Writes `failed` for a row that cannot be read although others can. If a column of the framework has no value,
    /// leaves the row out.
    async fn set_unreadable(&mut self, tx: &Transaction, row: &QueryResult, error: &DbErr) -> Result<()> {
        let Settler { service_db, table, lease, .. } = &self.settler;
        let (name, service_id) = (&table.name, &*service_db.service_id);
        let key = row::key_of::<E>(row)?;
        let shown = key_text(&key);
        let release = async || match lease {
            Some(lease) => claim_table::release_row(tx.connection().await?, name, &key, &lease.owner).await.map(drop),
            None => Ok(()),
        };
        if let Some(column) = row::null_column::<E>(row) {
            // The program that has added the column can still fill it.
            self.settler.leave_out(&key, &format!("its column `{column}` is NULL, but the entity requires a value"));
            return Ok(release().await?);
        }
        let message = format!("cannot be read: {error}");
        let written = write_unreadable(tx, table, &key, &message, service_db.clock.now()).await?;
        release().await?;
        match written {
            // Another program has changed its status meanwhile.
            Written::Changed => return Ok(()),
            Written::Refused(why) => {
                self.settler.leave_out(&key, &format!("{message}, and its status cannot be written: {why}"));
            }
            Written::Done => {
                if service_db.work.report_once(format!("unreadable {name} {shown}")) {
                    crate::log::warn!(service.id = service_id, table = name, key = shown, %error, "a row cannot be read and becomes `failed`");
                }
            }
        }
        match lease {
            Some(_) => self.tally.unreadable.push(key),
            None => self.tally.last_failed = Some(key),
        }
        self.tally.failed += 1;
        Ok(())
    }
}

impl<E: EntityTrait> Drop for Batch<E> {
    fn drop(&mut self) {
        if let Some(item) = &self.current {
            self.settler.record_dropped(item);
        }
        let Settler { service_db, table, lease, .. } = &self.settler;
        let settled = self.tally.processed + self.tally.failed;
        if self.awaits_commit && lease.is_none() && settled > 0 {
            service_db.work.drop_uncommitted(table, settled);
        }
    }
}
