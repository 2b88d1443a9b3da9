//! [`Batch`] and [`Item`]: working off claimed rows.
//!
//! A batch of `claim` is one transaction: an item's writes stand behind a savepoint, failures are noted as they happen, and all
//! that succeeded become `completed` in one statement at the end. A batch of `claim_each` holds a lease instead, and every item
//! has a transaction of its own.
//!
//! The tricky part is the item in flight. `current` is set from the moment an item is lent until its fate is written, so that
//! a drop at any await knows whom to charge.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryResult};

use crate::database::error_kind as fault;
use crate::database::service_db::Access;
use crate::database::transaction::Transaction;
use crate::database::work::claim::{self as request, Rows};
use crate::database::work::lease::{self, Lease};
use crate::database::work::settlement::{Cause, Row};
use crate::database::work::sql::{Plan, Verdict, key_text};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Advice, Error, Result};
use crate::service::outcome::Outcome;

/// Rows claimed by one run. Lend its items with [`next`](Batch::next), settle each, and [`commit`](Batch::commit).
///
/// Dropped instead, by `?`, a panic or a timeout: what did not commit is undone, the row in flight is charged for it (an
/// attempt, or `failed`), and the others are claimed again by the next run.
#[derive(Debug)]
pub struct Batch<E: EntityTrait> {
    access: Access,
    plan: Arc<Plan>,
    /// The batch's transaction, or the lent item's own where there is a lease.
    tx: Transaction,
    lease: Option<Lease>,
    rows: Rows<E>,
    current: Option<Row>,
    done: Vec<Row>,
    claimed: u64,
    processed: u64,
    failed: u64,
    more: bool,
    hold: Option<Hold>,
}

/// Says that SQLite's write lock is held.
#[derive(Debug)]
struct Hold(Arc<AtomicUsize>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One claimed row, lent by [`Batch::next`]. Dropped without being settled, it has failed (`not settled`).
#[derive(Debug)]
pub struct Item<'a, E: EntityTrait> {
    batch: &'a mut Batch<E>,
    model: E::Model,
}

/// A statement of the item failed, the item went on, and said it had succeeded.
#[derive(Debug, thiserror::Error)]
#[error(
    "settled as done, although a statement had failed, which ends a transaction's part; return its error, or wrap what may fail in `tx.begin()`"
)]
struct Ignored(#[source] DbErr);

impl<E: EntityTrait<Model: Sync>> Item<'_, E> {
    /// The row as it was when it was claimed.
    pub fn model(&self) -> &E::Model {
        &self.model
    }

    /// Where this item's writes go: kept when it is settled with `Ok`, undone with `Err`.
    ///
    /// With `claim_each` it begins with its first statement; on SQLite it holds the write lock from then on.
    pub fn tx(&self) -> &Transaction {
        &self.batch.tx
    }

    /// Which attempt this is, from 1. Always 1 where the table does not count them.
    pub fn attempt(&self) -> u64 {
        let before = self.batch.current.as_ref().map_or(0, |row| row.attempts);
        u64::try_from(before).unwrap_or(0) + 1
    }

    /// Says how it went. `Ok`: it will be `completed`, together with its writes. `Err`: its writes are undone, and it is `failed`
    /// with the error's whole chain as its message, or `pending` again, later, while attempts are left.
    ///
    /// `Error::fatal` means no further attempt; `Error::retry_after` sets the wait.
    ///
    /// # Errors
    /// Only the database's: pass it on, with `?`. A failed item is no error of the batch.
    pub fn settle<T, X>(self, result: std::result::Result<T, X>) -> impl Future<Output = Result<()>> + Send
    where
        X: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        // Not held across an await: they need not be `Send`.
        let failure = result.err().map(Error::new);
        let batch = self.batch;
        async move {
            match failure {
                None => batch.succeed().await,
                // Boxed, as it is rare and large: a success shall not carry the room for it.
                Some(error) => Box::pin(batch.fail(&error)).await,
            }
        }
    }
}

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    pub(crate) fn new(access: Access, plan: Arc<Plan>, tx: Transaction, lease: Option<Lease>) -> Self {
        Self {
            access,
            plan,
            tx,
            lease,
            rows: VecDeque::new(),
            current: None,
            done: Vec::new(),
            claimed: 0,
            processed: 0,
            failed: 0,
            more: false,
            hold: None,
        }
    }

    /// The rows are held by claims, not by a transaction.
    pub(crate) fn keep(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// The batch's transaction has begun.
    pub(crate) fn hold(&mut self) {
        self.access.holding.fetch_add(1, Ordering::Relaxed);
        self.hold = Some(Hold(Arc::clone(&self.access.holding)));
    }

    pub(crate) fn tx(&self) -> &Transaction {
        &self.tx
    }

    /// Rows were charged before they could be lent, and whether more wait.
    pub(crate) fn note(&mut self, charged: u64, more: bool) {
        self.failed += charged;
        self.more |= more;
    }

    /// There was nothing: no transaction stays open.
    pub(crate) async fn give_up(&mut self) -> Result<()> {
        self.hold = None;
        self.take_tx().rollback().await
    }

    /// Lends the next item, or `None` when all have been lent. An item lent before and not settled has failed.
    ///
    /// # Errors
    /// The database's: pass it on, with `?`.
    pub async fn next(&mut self) -> Result<Option<Item<'_, E>>> {
        self.settle_forgotten().await?;
        let Some(claimed) = self.rows.pop_front() else { return Ok(None) };
        if self.lease.is_some() {
            self.tx = self.lazy().only_if(self.plan.still_pending(&claimed.row.key));
        } else {
            self.tx.enter_item();
        }
        self.current = Some(claimed.row);
        Ok(Some(Item { batch: self, model: claimed.model }))
    }

    /// How many rows wait to be lent.
    pub fn remaining(&self) -> usize {
        self.rows.len()
    }

    /// Makes it last. The outcome counts items completed and failed (those that will be tried again, too), and says
    /// [`again`](Outcome::again) where more rows wait, or this batch has items that were not lent.
    ///
    /// Once it commits it goes on even when this future is dropped.
    ///
    /// # Errors
    /// The database refused: nothing of a `claim` was written. If the connection held, the same rows are claimed one by one
    /// next, so that the one it was about is found and charged.
    pub async fn commit(mut self) -> Result<Outcome> {
        self.settle_forgotten().await?;
        let again = self.more || !self.rows.is_empty();
        match &self.lease {
            Some(lease) if !self.rows.is_empty() => {
                // Until they are given back the lease is the batch's, so that a drop notes what could not be given back.
                let now = self.access.clock.now();
                lease::release_all(&self.access.db, &self.plan.name, &lease.owner, now).await?;
            }
            Some(_) => {}
            None => {
                self.commit_together().await?;
                // Only there a claim looks before it begins.
                if again && self.plan.backend == DbBackend::Sqlite {
                    self.access.debts.expect_more(&self.plan);
                }
            }
        }
        self.lease = None;
        let outcome = Outcome::processed(self.processed).failed(self.failed);
        Ok(if again { outcome.again() } else { outcome })
    }

    async fn commit_together(&mut self) -> Result<()> {
        let keys: Vec<ValueTuple> = self.done.iter().map(|row| row.key.clone()).collect();
        let tx = self.take_tx();
        let committed = async {
            for update in self.plan.complete(&keys, self.access.clock.now()) {
                tx.raw().await?.execute(&update).await?;
            }
            tx.commit().await
        };
        let Err(error) = committed.await else { return Ok(()) };
        let innocent =
            error.find::<DbErr>().is_some_and(|e| fault::is_connection_lost(e) || fault::ends_sqlite_transaction(e));
        if !innocent {
            match self.done.pop() {
                Some(row) if self.claimed == 1 => self.access.debts.note(&self.plan, Some(row), None, Cause::Run),
                _ => self.access.debts.go_singly(&self.plan, self.claimed),
            }
        }
        Err(error)
    }

    async fn settle_forgotten(&mut self) -> Result<()> {
        match self.current {
            Some(_) => Box::pin(self.fail(&Error::msg("not settled"))).await,
            None => Ok(()),
        }
    }

    async fn succeed(&mut self) -> Result<()> {
        let Some(row) = self.current.clone() else { return Ok(()) };
        if self.lease.is_some() {
            return Box::pin(self.succeed_alone(&row)).await;
        }
        if let Err(error) = self.tx.keep_item().await {
            return Box::pin(self.fail(&Error::new(Ignored(error)))).await;
        }
        self.current = None;
        self.done.push(row);
        self.processed += 1;
        Ok(())
    }

    async fn fail(&mut self, error: &Error) -> Result<()> {
        let Some(row) = self.current.clone() else { return Ok(()) };
        if self.tx.cause() != Cause::Run {
            // Nothing can be written any more; dropped, the batch tells what it knows of the cause.
            return Err(error.clone());
        }
        if self.tx.is_lost() {
            self.lost(&row).await;
            return Ok(());
        }
        let now = self.access.clock.now();
        let verdict = match error.advice() {
            Advice::Fatal => Verdict::Failed,
            Advice::RetryAfter(wait) => self.plan.verdict(row.attempts, Some(wait), now),
            Advice::None => self.plan.verdict(row.attempts, None, now),
        };
        let message = format!("{error:#}");
        self.report(&row, verdict, &message);
        if self.lease.is_some() {
            if !self.fail_alone(&row, verdict, &message).await? {
                self.lost(&row).await;
                return Ok(());
            }
        } else {
            self.tx.undo_item().await?;
            let write = |message| self.plan.fail(&row.key, row.attempts, verdict, message, now);
            if self.tx.try_out(&write(Some(&message))).await.is_err() {
                // The message may be what the column refuses.
                self.tx.try_out(&write(None)).await?;
            }
        }
        self.current = None;
        self.failed += 1;
        Ok(())
    }

    fn report(&self, row: &Row, verdict: Verdict, error: &str) {
        let (table, key, attempt) = (&self.plan.name, key_text(&row.key), row.attempts + 1);
        let service_id = &*self.access.service_id;
        match verdict {
            Verdict::Failed => {
                tracing::warn!(service.id = service_id, table, key, attempt, error, "an item failed");
            }
            Verdict::Again(at) => {
                tracing::info!(service.id = service_id, table, key, attempt, error, again_at = %at, "an item failed and will be tried again");
            }
        }
    }

    /// An item of its own: its writes, its status and the end of its claim commit together.
    async fn succeed_alone(&mut self, row: &Row) -> Result<()> {
        let tx = self.take_tx();
        let written = async {
            tx.check().await.map_err(|error| Error::new(Ignored(error)))?;
            // The row was pending when the transaction began. Since then the item may have changed or deleted it.
            for update in self.plan.complete(std::slice::from_ref(&row.key), self.access.clock.now()) {
                tx.raw().await?.execute(&update).await?;
            }
            self.end_claim(&tx, row).await
        };
        let written: Result<bool> = written.await;
        let committed = match written {
            Ok(true) => tx.commit().await.map(|()| true),
            Ok(false) => tx.rollback().await.map(|()| false),
            Err(_) if tx.is_lost() => Ok(false),
            Err(error) => {
                let cause = tx.cause();
                drop(tx);
                if cause != Cause::Run {
                    return self.forgo(cause, error);
                }
                Err(error)
            }
        };
        match committed {
            Ok(true) => {
                self.current = None;
                self.processed += 1;
                Ok(())
            }
            Ok(false) => {
                self.lost(row).await;
                Ok(())
            }
            Err(error) => match error.find::<DbErr>() {
                Some(lost) if fault::is_connection_lost(lost) => self.forgo(Cause::ConnectionLost, error),
                // The commit was refused: what this item wrote cannot stand.
                _ => Box::pin(self.fail(&error)).await,
            },
        }
    }

    /// False: the claim had run out.
    async fn fail_alone(&mut self, row: &Row, verdict: Verdict, message: &str) -> Result<bool> {
        // Its writes go first; a connection that will not even roll back is no reason not to say so elsewhere.
        let _ = self.take_tx().rollback().await;
        let (tx, now) = (self.lazy(), self.access.clock.now());
        let write = |message| self.plan.fail(&row.key, row.attempts, verdict, message, now);
        if tx.try_out(&write(Some(message))).await.is_err() {
            // The message may be what the column refuses.
            tx.try_out(&write(None)).await?;
        }
        let ours = self.end_claim(&tx, row).await?;
        if ours {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        Ok(ours)
    }

    /// Gives the claim back, and says whether it still stood. Always after the row itself was written: claiming locks row and claim in
    /// this order, and the other way round the two would wait for each other.
    async fn end_claim(&self, tx: &Transaction, row: &Row) -> Result<bool> {
        let Some(lease) = &self.lease else { return Ok(true) };
        let release = lease::release(&self.plan.name, &key_text(&row.key), &lease.owner);
        Ok(tx.raw().await?.execute(&release).await?.rows_affected() == 1)
    }

    /// Somebody else has the row: its lease ran out here, or it was worked on without one.
    async fn lost(&mut self, row: &Row) {
        tracing::warn!(
            service.id = &*self.access.service_id,
            table = self.plan.name,
            key = key_text(&row.key),
            "the claim ran out before the item was settled (a longer `.lease(…)` helps), or somebody else has changed its row; its writes are undone"
        );
        if let Some(lease) = &self.lease {
            // Where it is still this worker's. Otherwise, or where it cannot be given back, it runs out.
            let release = lease::release(&self.plan.name, &key_text(&row.key), &lease.owner);
            let _ = self.access.db.execute(&release).await;
        }
        self.current = None;
    }

    /// The item's transaction broke: whether it is charged is for the debts to say.
    fn forgo(&mut self, cause: Cause, error: Error) -> Result<()> {
        let owner = self.lease.as_ref().map(|lease| lease.owner.clone());
        self.access.debts.note(&self.plan, self.current.take(), owner, cause);
        Err(error)
    }

    fn lazy(&self) -> Transaction {
        Transaction::lazy(&self.access)
    }

    fn take_tx(&mut self) -> Transaction {
        let fresh = self.lazy();
        std::mem::replace(&mut self.tx, fresh)
    }
}

impl<E: WorkItem> Batch<E> {
    /// Takes the claimed rows over. Those that cannot be read are set aside, so that they stop nothing.
    pub(crate) async fn take(&mut self, rows: Vec<QueryResult>, wanted: u64) -> std::result::Result<(), DbErr> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.more = rows.len() > wanted;
        for row in rows.iter().take(wanted) {
            self.claimed += 1;
            match request::read::<E>(row) {
                Ok(claimed) => self.rows.push_back(claimed),
                Err(error) => self.set_aside(row, &error).await?,
            }
        }
        if self.lease.is_some() {
            let tx = self.take_tx();
            tx.commit().await.map_err(|error| DbErr::Custom(format!("{error:#}")))?;
        }
        Ok(())
    }

    async fn set_aside(&mut self, row: &QueryResult, error: &DbErr) -> std::result::Result<(), DbErr> {
        let table = &self.plan.name;
        let service_id = &*self.access.service_id;
        let key = match request::key_of::<E>(row) {
            Ok(key) => key,
            Err(error) => {
                request::report_unreadable_key(&self.access, &self.plan, &error);
                return Ok(());
            }
        };
        let shown = key_text(&key);
        if self.access.debts.first_time(format!("unreadable {table} {shown}")) {
            tracing::warn!(service.id = service_id, table, key = shown, %error, "a row cannot be read; it is set aside as failed");
        }
        let (now, message) = (self.access.clock.now(), format!("cannot be read: {error}"));
        if self.tx.try_out(&self.plan.set_aside(&key, Some(&message), now)).await.is_err() {
            self.tx.try_out(&self.plan.set_aside(&key, None, now)).await?;
        }
        if let Some(lease) = &self.lease {
            self.tx.try_out(&lease::release(table, &shown, &lease.owner)).await?;
        }
        self.failed += 1;
        Ok(())
    }
}

impl<E: EntityTrait> Drop for Batch<E> {
    fn drop(&mut self) {
        let owner = self.lease.take().map(|lease| lease.owner.clone());
        let row = self.current.take();
        if row.is_some() || owner.is_some() {
            self.access.debts.note(&self.plan, row, owner, self.tx.cause());
        }
    }
}
