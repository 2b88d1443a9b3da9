//! Processes several items of a leased batch at the same time, on the task of their run.
//!
//! The tricky part is fairness. An item that is busy exhausts tokio's cooperative budget, and then no timer of another item
//! fires. So the items take turns in a queue, and a turn ends when the budget is exhausted; the next one begins with the items
//! that were not polled.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use sea_orm::EntityTrait;
use tokio::task::coop;

use crate::database::work::batch::{Batch, Tally, Unlent};
use crate::database::work::item::{IntoSettled, Item};
use crate::database::work::item_fn::{ItemFn, call};
use crate::database::work::row::ClaimedRow;
use crate::database::work::settler::{Settled, Settler};
use crate::runtime::context::Context;
use crate::service::error::{Error, Result};
use crate::service::outcome::Outcome;

/// Processes the items of a batch, as many at the same time as it allows, and commits the batch.
pub(super) async fn concurrently<E, F, R>(
    batch: impl Future<Output = Result<Batch<E>>> + Send,
    context: Option<Context>,
    code: F,
) -> Result<Outcome>
where
    E: EntityTrait<Model: Sync>,
    F: for<'a> ItemFn<'a, E, Out = R> + Clone + Send + Sync,
    R: IntoSettled,
{
    let mut batch = batch.await?;
    let error = {
        let (settler, unlent, tally) = batch.parts();
        let (in_flight, context) = (VecDeque::new(), context.as_ref());
        let mut items = Items { settler, context, unlent, tally, in_flight, error: None };
        poll_fn(|task| items.poll(task, |claimed| Box::pin(process(settler, claimed, code.clone())))).await;
        items.error
    };
    match error {
        Some(error) => Err(error),
        None => batch.commit().await,
    }
}

/// The items of a batch, while some of them are in flight.
struct Items<'a, E: EntityTrait, Process> {
    settler: &'a Settler,
    context: Option<&'a Context>,
    unlent: &'a mut Unlent<E>,
    tally: &'a mut Tally,
    in_flight: VecDeque<Pin<Box<Process>>>,
    /// The first error of the database.
    error: Option<Error>,
}

impl<E: EntityTrait, Process: Future<Output = Result<Settled>>> Items<'_, E, Process> {
    /// Polls each item in flight once. An item that is lent now is polled at once, because nothing else would wake this task
    /// for it.
    fn poll(&mut self, task: &mut Task<'_>, start: impl Fn(ClaimedRow<E>) -> Pin<Box<Process>>) -> Poll<()> {
        let mut turns = self.in_flight.len();
        loop {
            let mut item = match self.next() {
                Some(claimed) => start(claimed),
                None if turns == 0 => break,
                None => {
                    turns -= 1;
                    let Some(item) = self.in_flight.pop_front() else { break };
                    item
                }
            };
            match item.as_mut().poll(task) {
                Poll::Pending => self.in_flight.push_back(item),
                Poll::Ready(Ok(settled)) => self.tally.add(settled),
                Poll::Ready(Err(error)) => self.error = self.error.take().or(Some(error)),
            }
            if !coop::has_budget_remaining() {
                // The rest of the queue has registered no waker for what it waits for now.
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if self.in_flight.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the next row, if another item may be in flight now.
    fn next(&mut self) -> Option<ClaimedRow<E>> {
        if self.error.is_some() || self.context.is_some_and(Context::is_stopping) {
            return None;
        }
        // A suspect row is processed alone, so that it is known to be the cause if the process dies again. Such rows are the
        // last ones.
        let is_free = match self.unlent.first() {
            Some(row) if !row.is_suspect => self.in_flight.len() < self.settler.concurrency,
            _ => self.in_flight.is_empty(),
        };
        if is_free { self.unlent.take(self.settler) } else { None }
    }
}

/// Processes one item, and writes its result.
async fn process<E, F, R>(settler: &Settler, claimed: ClaimedRow<E>, code: F) -> Result<Settled>
where
    E: EntityTrait<Model: Sync>,
    F: for<'a> ItemFn<'a, E, Out = R> + Send,
    R: IntoSettled,
{
    let mut guard = RecordDropped { settler, item: settler.leased_item(claimed) };
    let result = call(&guard.item, settler.item_timeout, || code.call_with(&guard.item)).await;
    settler.settle(&mut guard.item, result).await
}

/// Records its item when it is dropped, if the item's result is not written by then.
struct RecordDropped<'a, E: EntityTrait> {
    settler: &'a Settler,
    item: Item<E>,
}

impl<E: EntityTrait> Drop for RecordDropped<'_, E> {
    fn drop(&mut self) {
        self.settler.record_dropped(&self.item);
    }
}
