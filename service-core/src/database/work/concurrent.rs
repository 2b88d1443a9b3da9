//! Processes several items of a leased batch at the same time, on the task of their run.
//!
//! The tricky part is fairness. An item that is busy exhausts tokio's cooperative budget, and then no timer of another
//! item fires. So the items take turns in a queue, and a turn ends when the budget is exhausted; the next one begins
//! with the items that were not polled.
//!
//! An item without writes of its own hands its completion over (`completions.rs`), so the next one begins at once.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use sea_orm::EntityTrait;
use tokio::task::coop;

use crate::database::work::batch::{Batch, Tally, Unlent};
use crate::database::work::completions::Completions;
use crate::database::work::item::IntoSettled;
use crate::database::work::item_fn::{ItemFn, call};
use crate::database::work::row::ClaimedRow;
use crate::database::work::settler::{RecordDropped, Settled, Settler};
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
        let (in_flight, completions) = (VecDeque::new(), Completions::new(settler));
        let context = context.as_ref();
        let mut items = Items { settler, context, unlent, tally, in_flight, completions, error: None };
        poll_fn(|task| items.poll(task, |next| Box::pin(process(settler, next, &code)))).await;
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
    /// The items whose code has succeeded, and whose status is not written yet.
    completions: Completions<'a, E>,
    /// The first error of the database.
    error: Option<Error>,
}

/// What begins next.
enum Next<'a, E: EntityTrait> {
    Lend(ClaimedRow<E>),
    /// The code of the item has succeeded.
    Complete(Box<RecordDropped<'a, E>>),
}

/// How an item has ended.
enum Ended<'a, E: EntityTrait> {
    Settled(Settled),
    /// It succeeded, and its completion need not be awaited before the next item.
    Succeeded(Box<RecordDropped<'a, E>>),
}

impl<'a, E: EntityTrait, Process: Future<Output = Result<Ended<'a, E>>>> Items<'a, E, Process> {
    /// Polls each item in flight once. An item that begins now is polled at once, because nothing else would wake this
    /// task for it.
    fn poll(&mut self, task: &mut Task<'_>, start: impl Fn(Next<'a, E>) -> Pin<Box<Process>>) -> Poll<()> {
        let mut turns = self.in_flight.len();
        loop {
            while let Some(next) = self.next(task) {
                if self.take_turn(start(next), task) {
                    return Poll::Pending;
                }
            }
            if turns == 0 {
                break;
            }
            // All before the next one begins, so that those that end now are completed together.
            while turns > 0
                && let Some(item) = self.in_flight.pop_front()
            {
                turns -= 1;
                if self.take_turn(item, task) {
                    return Poll::Pending;
                }
            }
        }
        if self.in_flight.is_empty() && self.completions.len() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Polls an item. Returns whether the budget is exhausted. Then this task is polled again, because the rest of the
    /// queue has registered no waker for what it waits for now.
    fn take_turn(&mut self, mut item: Pin<Box<Process>>, task: &mut Task<'_>) -> bool {
        match item.as_mut().poll(task) {
            Poll::Pending => self.in_flight.push_back(item),
            Poll::Ready(Ok(Ended::Settled(settled))) => self.tally.add(settled),
            Poll::Ready(Ok(Ended::Succeeded(item))) => self.completions.add(item),
            Poll::Ready(Err(error)) => self.note(error),
        }
        let is_exhausted = !coop::has_budget_remaining();
        if is_exhausted {
            task.waker().wake_by_ref();
        }
        is_exhausted
    }

    fn note(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Takes what begins next, if another item may be in flight now.
    fn next(&mut self, task: &mut Task<'_>) -> Option<Next<'a, E>> {
        // First, because the code of the next item may take long before it waits for something.
        if let Err(error) = self.completions.poll(task, self.tally) {
            self.note(error);
        }
        let (running, unwritten) = (self.in_flight.len(), self.completions.len());
        if running < self.settler.concurrency
            && let Some(item) = self.completions.take_left()
        {
            return Some(Next::Complete(item));
        }
        let ends = self.error.is_some() || self.tally.refused.is_some();
        if ends || self.context.is_some_and(Context::is_stopping) {
            return None;
        }
        let Settler { concurrency, most_unwritten, .. } = *self.settler;
        // A suspect row is processed alone, so that it is known to be the cause if the process dies again. Such rows
        // are the last ones.
        let is_free = match self.unlent.first() {
            Some(row) if !row.is_suspect => running < concurrency && running + unwritten < concurrency + most_unwritten,
            _ => running + unwritten == 0,
        };
        if is_free { self.unlent.take(self.settler).map(Next::Lend) } else { None }
    }
}

/// Processes one item, and writes its result, unless that is left to the completions.
async fn process<'a, E, F, R>(settler: &'a Settler, next: Next<'a, E>, code: &F) -> Result<Ended<'a, E>>
where
    E: EntityTrait<Model: Sync>,
    F: for<'b> ItemFn<'b, E, Out = R> + Clone + Send + Sync,
    R: IntoSettled,
{
    let (mut guard, result) = match next {
        Next::Complete(guard) => (guard, Ok(())),
        Next::Lend(claimed) => {
            let guard = Box::new(RecordDropped { settler, item: settler.leased_item(claimed) });
            let result = call(&guard.item, settler.item_timeout, || code.clone().call_with(&guard.item)).await;
            if result.is_ok() && settler.most_unwritten > 0 && settler.is_unused(&guard.item) {
                return Ok(Ended::Succeeded(guard));
            }
            (guard, result)
        }
    };
    settler.settle(&mut guard.item, result).await.map(Ended::Settled)
}
