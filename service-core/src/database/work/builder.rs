//! [`Claim`] and [`ClaimEach`]: builders of a claim.
//!
//! The tricky part is the compiler's error messages: only the functions that create a claim require a [`WorkItem`]. If
//! the types required it as well, an entity without it would cause three errors.

use std::future::IntoFuture;
use std::time::Duration;

use sea_orm::sea_query::{Condition, IntoCondition};
use sea_orm::{EntityTrait, Order};

use crate::database::service_db::ServiceDb;
use crate::database::work::attempt::Backoff;
use crate::database::work::batch::Batch;
use crate::database::work::claim::ClaimRequest;
use crate::database::work::lease::DEFAULT_CLAIM_LEASE;
use crate::database::work::work_item::WorkItem;
use crate::runtime::context::Context;
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};

/// The most rows that one claim takes.
const MOST_ROWS: u64 = i32::MAX as u64;

/// Executes a request. Chosen where the entity is known to be a work item.
type Run<E> = fn(ClaimRequest<E>) -> Claiming<E>;

impl ServiceDb {
    /// Claims up to `n` pending rows; they commit together.
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(Ok(self), n)
    }

    /// Claims up to `n` pending rows; they commit one by one.
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(Ok(self), n)
    }
}

/// A claim of pending rows that commit together. Call [`for_each`](Self::for_each), or `.await` it for the [`Batch`].
///
/// On PostgreSQL the rows are locked with `FOR UPDATE SKIP LOCKED`. On SQLite the batch holds the write lock until it
/// is committed or dropped, so write through `item.tx()` only.
#[derive(Debug)]
#[must_use = "a claim does nothing until it is awaited"]
pub struct Claim<E: EntityTrait>(Builder<E>);

/// A claim of pending rows that commit one by one. Call [`for_each`](Self::for_each), or `.await` it for the [`Batch`].
///
/// The claims are rows of `service_claim` with an owner and an expiry, and are renewed while the batch exists. The
/// claims of a process that was killed expire after the [`lease`](Self::lease), and at most its item in flight is
/// repeated.
#[derive(Debug)]
#[must_use = "a claim does nothing until it is awaited"]
pub struct ClaimEach<E: EntityTrait>(Builder<E>);

/// A claim that is being executed.
pub(super) type Claiming<E> = BoxFuture<'static, Result<Batch<E>>>;

#[derive(Debug)]
struct Builder<E: EntityTrait> {
    /// The error is that there is no database; awaiting returns it.
    request: Result<ClaimRequest<E>>,
    run: Run<E>,
    /// Shows when the run has to end.
    context: Option<Context>,
}

impl<E: EntityTrait> Builder<E> {
    fn new(service_db: Result<&ServiceDb>, wanted: u64, run: Run<E>) -> Self {
        let request = service_db.map(|service_db| ClaimRequest {
            service_db: service_db.clone(),
            // Databases and drivers take no larger number for a limit.
            wanted: wanted.min(MOST_ROWS),
            filter: Condition::all(),
            order: Vec::new(),
            backoff: Backoff::default(),
            lease: DEFAULT_CLAIM_LEASE,
            concurrency: 1,
            lends_ahead: false,
            item_timeout: None,
        });
        Self { request, run, context: None }
    }

    fn with(mut self, change: impl FnOnce(&mut ClaimRequest<E>)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    fn send(self) -> Claiming<E> {
        match self.request {
            Ok(request) => (self.run)(request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

macro_rules! builder {
    () => {
        /// Claims only rows that meet this condition. Called again, both conditions must be met.
        pub fn filter(self, condition: impl IntoCondition) -> Self {
            let condition = condition.into_condition();
            Self(self.0.with(|request| request.filter = request.filter.clone().add(condition)))
        }

        /// Claims rows in this order, instead of half new and half retried rows. Called again, this orders equal rows;
        /// the key decides last. Rows that are last in this order can starve.
        ///
        /// SQLite compares times that it keeps as text by their instants only in the column of `available_at`. Other
        /// columns are compared as text, so that their indices serve: store their times with one offset.
        pub fn order_by(self, column: E::Column, order: Order) -> Self {
            Self(self.0.with(|request| request.order.push((column, order))))
        }

        /// Claims rows in the order of this column, the smallest first.
        pub fn order_by_asc(self, column: E::Column) -> Self {
            self.order_by(column, Order::Asc)
        }

        /// Claims rows in the order of this column, the largest first.
        pub fn order_by_desc(self, column: E::Column) -> Self {
            self.order_by(column, Order::Desc)
        }

        /// The run that the claim belongs to.
        pub(crate) fn in_run(mut self, context: &Context) -> Self {
            self.0.context = Some(context.clone());
            self
        }

        /// Begins the claim for `for_each`.
        pub(super) fn into_parts(mut self) -> (Claiming<E>, Option<Context>) {
            let context = self.0.context.take();
            (self.0.send(), context)
        }

        /// Sets the wait after a row's first failed attempt. It doubles with each further attempt. Default: 10 s. Needs
        /// `available_at`; without it the row is pending again at once.
        pub fn retry_delay(self, first: Duration) -> Self {
            Self(self.0.with(|request| request.backoff.first = first))
        }

        /// Sets the maximum of that wait. Default: 1 h.
        pub fn max_retry_delay(self, longest: Duration) -> Self {
            Self(self.0.with(|request| request.backoff.longest = longest))
        }
    };
}

impl<E: EntityTrait> Claim<E> {
    pub(crate) fn new(service_db: Result<&ServiceDb>, wanted: u64) -> Self
    where
        E: WorkItem,
    {
        Self(Builder::new(service_db, wanted, |request| Box::pin(request.batch())))
    }

    builder!();
}

impl<E: EntityTrait> ClaimEach<E> {
    pub(crate) fn new(service_db: Result<&ServiceDb>, wanted: u64) -> Self
    where
        E: WorkItem,
    {
        Self(Builder::new(service_db, wanted, |request| Box::pin(request.leased())))
    }

    builder!();

    /// Sets how long claims stay valid without being renewed, such as those of a process that was killed. Default: 60
    /// s, at least 100 ms. A batch renews its claims at a third of this time.
    pub fn lease(self, length: Duration) -> Self {
        Self(self.0.with(|request| request.lease = length.max(Duration::from_millis(100))))
    }

    /// Sets how many items [`for_each`](Self::for_each) processes at the same time, on one task. Default: 1.
    ///
    /// Each item may hold a connection of the pool. A number above the pool's size less two is reduced, with a warning.
    /// On SQLite one item at a time can have an open transaction: the others wait at their first statement through
    /// `item.tx()` until it is settled.
    pub fn concurrency(self, items: usize) -> Self {
        Self(self.0.with(|request| request.concurrency = items.max(1)))
    }

    /// Sets how long the code of [`for_each`](Self::for_each) may take for an item. After that the item has failed, and
    /// its code is cancelled. Default: no limit.
    ///
    /// On PostgreSQL a statement through `item.tx()` is cancelled, too: `statement_timeout` is set to the time that is
    /// left when the transaction begins, unless a shorter one applies.
    pub fn item_timeout(self, limit: Duration) -> Self {
        Self(self.0.with(|request| request.item_timeout = Some(limit)))
    }

    /// Lets a next item begin before the status of those before it is written.
    pub(super) fn lending_ahead(self) -> Self {
        Self(self.0.with(|request| request.lends_ahead = true))
    }

    /// Makes the claim an error if an option was set that has no effect on it.
    pub(super) fn without(mut self, option: fn(&ClaimRequest<E>) -> bool, why: &'static str) -> Self {
        if self.0.request.as_ref().is_ok_and(option) {
            self.0.request = Err(Error::fatal(why));
        }
        self
    }
}

impl<E: EntityTrait> IntoFuture for Claim<E> {
    type Output = Result<Batch<E>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.0.send()
    }
}

impl<E: EntityTrait> IntoFuture for ClaimEach<E> {
    type Output = Result<Batch<E>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let is_limited = |request: &ClaimRequest<E>| request.concurrency > 1 || request.item_timeout.is_some();
        self.without(is_limited, "`.concurrency(…)` and `.item_timeout(…)` have no effect on a loop: use `for_each`")
            .0
            .send()
    }
}
