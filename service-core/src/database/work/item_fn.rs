//! [`ItemFn`] and [`ItemFnWith`]: the closures of `for_each` and `for_each_with`.
//!
//! The tricky part is that `AsyncFn` cannot say that its future is `Send`, which a run needs, and that a closure infers
//! the type of its argument only from `AsyncFn`. So the methods require both.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use sea_orm::EntityTrait;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use crate::database::work::item::{IntoSettled, Item};
use crate::humanize;
use crate::panic::{self, Caught};
use crate::schedule::later;
use crate::service::error::{Error, Result};

/// An `async |item|` closure.
#[doc(hidden)]
pub trait ItemFn<'a, E: EntityTrait>: Sized {
    type Out;
    type Future: Future<Output = Self::Out> + Send;

    fn call_with(self, item: &'a Item<E>) -> Self::Future;
}

impl<'a, E, F, Fut> ItemFn<'a, E> for F
where
    E: EntityTrait,
    F: FnOnce(&'a Item<E>) -> Fut,
    Fut: Future + Send,
{
    type Out = Fut::Output;
    type Future = Fut;

    fn call_with(self, item: &'a Item<E>) -> Fut {
        self(item)
    }
}

/// An `async |value, item|` closure.
#[doc(hidden)]
pub trait ItemFnWith<'a, T, E: EntityTrait>: Sized {
    type Out;
    type Future: Future<Output = Self::Out> + Send;

    fn call_with(self, value: &'a mut T, item: &'a Item<E>) -> Self::Future;
}

impl<'a, T, E, F, Fut> ItemFnWith<'a, T, E> for F
where
    T: 'a,
    E: EntityTrait,
    F: FnOnce(&'a mut T, &'a Item<E>) -> Fut,
    Fut: Future + Send,
{
    type Out = Fut::Output;
    type Future = Fut;

    fn call_with(self, value: &'a mut T, item: &'a Item<E>) -> Fut {
        self(value, item)
    }
}

/// The error of an item whose code panicked.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(super) struct ItemPanicked(String);

/// The error of an item that was not done in time.
#[derive(Debug, thiserror::Error)]
#[error("not done within {} (`item_timeout`)", humanize::long(*.0))]
struct ItemTimedOut(Duration);

/// Calls user code for one item, and drops its future before the result is written.
pub(super) async fn call<E, F>(item: &Item<E>, limit: Option<Duration>, code: impl FnOnce() -> F) -> Result<()>
where
    E: EntityTrait,
    F: Future<Output: IntoSettled>,
{
    let begun = Instant::now();
    let mut timer = pin!(limit.map(|limit| tokio::time::sleep_until(later(begun, limit))));
    let mut work = match panic::catch(|| Box::pin(code())) {
        Caught::Returned(work) => work,
        Caught::Panicked(message) => return Err(Error::new(ItemPanicked(message))),
    };
    let result = poll_fn(|task| match panic::catch(|| work.as_mut().poll(task).map(settled)) {
        Caught::Panicked(message) => Poll::Ready(Err(Error::new(ItemPanicked(message)))),
        Caught::Returned(Poll::Ready(result)) => Poll::Ready(result),
        // The limit is polled after the work, so an item that ends in time has not timed out; and outside tokio's
        // cooperative budget, which busy work may have exhausted.
        Caught::Returned(Poll::Pending) => {
            let (Some(mut timer), Some(limit)) = (timer.as_mut().as_pin_mut(), limit) else { return Poll::Pending };
            loop {
                ready!(Pin::new(&mut unconstrained(timer.as_mut())).poll(task));
                // The turn of another item's transaction does not count.
                let end = later(later(begun, limit), item.tx().time_in_queue());
                if end <= Instant::now() {
                    return Poll::Ready(Err(Error::new(ItemTimedOut(limit))));
                }
                timer.as_mut().reset(end);
            }
        }
    })
    .await;
    match panic::catch(|| drop(work)) {
        Caught::Returned(()) => result,
        Caught::Panicked(message) => Err(Error::new(ItemPanicked(message))),
    }
}

/// The result of user code. Prints its error once, because an error's `Display` may panic, and later code prints it
/// where no panic is caught.
fn settled(result: impl IntoSettled) -> Result<()> {
    result.into_settled().inspect_err(|error| drop(format!("{error:#}")))
}
