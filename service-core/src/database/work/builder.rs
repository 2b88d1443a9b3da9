//! [`Claim`] and [`ClaimEach`]: asking for pending rows.
//!
//! The tricky part is one for messages: only the making of a claim asks for a [`WorkItem`]. If the types required it as well, an
//! entity that is none would be told three times.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use sea_orm::sea_query::{Condition, IntoCondition};
use sea_orm::{EntityTrait, Order};

use crate::database::service_db::ServiceDb;
use crate::database::work::batch::Batch;
use crate::database::work::claim::ClaimRequest;
use crate::database::work::lease::DEFAULT_LEASE;
use crate::database::work::sql::Backoff;
use crate::database::work::work_item::WorkItem;
use crate::service::error::Result;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a request is carried out, from where the entity was still known for a work item.
type Run<E> = fn(ClaimRequest<E>) -> BoxFuture<Result<Batch<E>>>;

impl ServiceDb {
    /// Claims up to `n` pending rows that commit together.
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(Ok(self), n)
    }

    /// Claims up to `n` pending rows that commit one by one.
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(Ok(self), n)
    }
}

/// Asks for pending rows that commit together; `.await` it for the [`Batch`].
///
/// On PostgreSQL they are locked with `FOR UPDATE SKIP LOCKED`; on SQLite the batch holds the write lock until it is committed or
/// dropped, so write through `item.tx()` only.
#[derive(Debug)]
#[must_use = "a claim does nothing until it is awaited"]
pub struct Claim<E: EntityTrait>(Builder<E>);

/// Asks for pending rows that commit one by one; `.await` it for the [`Batch`].
///
/// The claims stand in `service_claim` with an owner and an expiry, and are renewed while the batch lives. Those of a
/// process that was killed run out after the [`lease`](Self::lease), and at most its item in flight is repeated.
#[derive(Debug)]
#[must_use = "a claim does nothing until it is awaited"]
pub struct ClaimEach<E: EntityTrait>(Builder<E>);

#[derive(Debug)]
struct Builder<E: EntityTrait> {
    /// Where there is no database, awaiting says so.
    request: Result<ClaimRequest<E>>,
    run: Run<E>,
}

impl<E: EntityTrait> Builder<E> {
    fn new(service_db: Result<&ServiceDb>, wanted: u64, run: Run<E>) -> Self {
        let request = service_db.map(|service_db| ClaimRequest {
            service_db: service_db.clone(),
            wanted,
            filter: Condition::all(),
            order: Vec::new(),
            backoff: Backoff::default(),
            lease: DEFAULT_LEASE,
        });
        Self { request, run }
    }

    fn with(mut self, change: impl FnOnce(&mut ClaimRequest<E>)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    fn send(self) -> BoxFuture<Result<Batch<E>>> {
        match self.request {
            Ok(request) => (self.run)(request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

macro_rules! builder {
    () => {
        /// Only rows that meet this condition too. Called again, both must be met.
        pub fn filter(self, condition: impl IntoCondition) -> Self {
            let condition = condition.into_condition();
            Self(self.0.with(|request| request.filter = request.filter.clone().add(condition)))
        }

        /// In this order instead of the oldest first; called again, among equals. The key decides last.
        pub fn order_by(self, column: E::Column, order: Order) -> Self {
            Self(self.0.with(|request| request.order.push((column, order))))
        }

        /// As `order_by`, the smallest first.
        pub fn order_by_asc(self, column: E::Column) -> Self {
            self.order_by(column, Order::Asc)
        }

        /// As `order_by`, the largest first.
        pub fn order_by_desc(self, column: E::Column) -> Self {
            self.order_by(column, Order::Desc)
        }

        /// How long a failed row waits for its next attempt: this long after the first, doubled each time. Default 10 s. Needs
        /// `available_at`; without it the row is pending again at once.
        pub fn retry_delay(self, first: Duration) -> Self {
            Self(self.0.with(|request| request.backoff.first = first))
        }

        /// The longest such wait. Default 1 h.
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

    /// How long claims outlive a process that was killed. Default 60 s. A batch that lives renews them at a third of it.
    pub fn lease(self, length: Duration) -> Self {
        Self(self.0.with(|request| request.lease = length.max(Duration::from_millis(100))))
    }
}

impl<E: EntityTrait> IntoFuture for Claim<E> {
    type Output = Result<Batch<E>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.0.send()
    }
}

impl<E: EntityTrait> IntoFuture for ClaimEach<E> {
    type Output = Result<Batch<E>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.0.send()
    }
}
