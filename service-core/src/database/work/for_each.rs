//! `for_each` and `for_each_with`: user code for each row of a claim, without a loop.

use std::future::Future;

use sea_orm::EntityTrait;

use crate::database::work::batch::Batch;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::concurrent::concurrently;
use crate::database::work::item::{IntoSettled, Item};
use crate::database::work::item_fn::{ItemFn, ItemFnWith, call};
use crate::runtime::context::Context;
use crate::service::error::Result;
use crate::service::outcome::Outcome;

impl<E: EntityTrait<Model: Sync>> Claim<E> {
    /// Calls a closure for each claimed row, one at a time, and commits all rows together.
    ///
    /// The closure returns `()` or a `Result`. With `Ok` its row becomes `completed`; with `Err` its writes through
    /// [`item.tx()`](Item::tx) are undone, and the row is `pending` again, later, or `failed`, as described at
    /// [`settle`](crate::database::BatchItem::settle). A panic is an error of its item, not of the run; it is logged
    /// with file and line.
    ///
    /// The closure may borrow `&self`. It cannot change what it captures: use [`for_each_with`](Self::for_each_with)
    /// for that. If it uses `?`, it needs a return type.
    ///
    /// The outcome counts the items that completed and those that failed, and is [`again`](Outcome::again) if more rows
    /// are due. When the run has to end, because the service is stopped, no further item is lent: those before it are
    /// committed, and the outcome is `again`.
    ///
    /// If the future is dropped, nothing is committed, the item in flight loses an attempt, and the others do not.
    ///
    /// # Errors
    /// Those of the database, as of [`Batch::next`] and [`Batch::commit`]. A failed item is not an error of the batch.
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
    /// use sea_orm::ConnectionTrait;
    /// use service_core::prelude::*;
    ///
    /// async fn update(cx: &Context) -> Result<Outcome> {
    ///     let claim = cx.claim::<order::Entity>(100);
    ///     claim.for_each(async |item| -> Result<()> {
    ///         let parcel = format!("INSERT INTO parcel (shop_order) VALUES ({})", item.model().id);
    ///         item.tx().execute_unprepared(&parcel).await?;
    ///         Ok(())
    ///     }).await
    /// }
    /// ```
    pub fn for_each<F, R>(self, code: F) -> impl Future<Output = Result<Outcome>> + Send
    where
        F: AsyncFnOnce(&Item<E>) -> R + for<'a> ItemFn<'a, E, Out = R> + Clone + Send + Sync,
        R: IntoSettled,
    {
        let (batch, context) = self.into_parts();
        in_sequence(batch, context, code)
    }

    /// Calls a closure for each claimed row as [`for_each`](Self::for_each) does, with a value that the closure may
    /// change: a count, or the service itself.
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
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
    /// use service_core::database::Item;
    /// use service_core::prelude::*;
    ///
    /// #[derive(Default)]
    /// struct Packer {
    ///     packed: u64,
    /// }
    ///
    /// #[service(interval = 5)]
    /// impl Packer {
    ///     async fn update(&mut self, cx: &Context) -> Result<Outcome> {
    ///         cx.claim::<order::Entity>(100).for_each_with(self, Packer::pack).await
    ///     }
    /// }
    ///
    /// impl Packer {
    ///     async fn pack(&mut self, _order: &Item<order::Entity>) -> Result<()> {
    ///         self.packed += 1;
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn for_each_with<T, F, R>(self, value: &mut T, code: F) -> impl Future<Output = Result<Outcome>> + Send
    where
        T: Send,
        F: AsyncFnOnce(&mut T, &Item<E>) -> R + for<'a> ItemFnWith<'a, T, E, Out = R> + Clone + Send + Sync,
        R: IntoSettled,
    {
        let (batch, context) = self.into_parts();
        in_sequence_with(batch, context, value, code)
    }
}

impl<E: EntityTrait<Model: Sync>> ClaimEach<E> {
    /// Calls a closure for each claimed row, as [`Claim::for_each`] does, but each row commits by itself, and
    /// [`concurrency`](Self::concurrency) sets how many are in flight at the same time. All of them run on one task.
    ///
    /// An item that has used [`item.tx()`](Item::tx) is completed before its place is free. On PostgreSQL, the status
    /// of an item that has not used it may be written while the next item runs, together with that of others. At most
    /// as many items as `concurrency` wait for that. Until then they are in flight, too.
    ///
    /// A panic and the end of the [`item_timeout`](Self::item_timeout) are errors of their item; the others continue.
    /// After an error of the database no further item is lent, and the items in flight end before the error is
    /// returned.
    ///
    /// When the run has to end, because the service is stopped, no further item is lent. The items in flight may end,
    /// within `drain_timeout`; the claims of the other rows are released, and the outcome is [`again`](Outcome::again).
    ///
    /// If the future is dropped, all claims are released when the run has ended, or soon after if it goes on. The items
    /// in flight lose an attempt, except those whose status is being written, and no others do.
    ///
    /// # Errors
    /// Those of the database, as of [`Batch::next`] and [`Batch::commit`]. A failed item is not an error of the batch.
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
    /// use std::time::Duration;
    /// use service_core::prelude::*;
    ///
    /// async fn send(order: &order::Model) -> std::io::Result<()> {
    ///     // … a request to another program …
    /// #   let _ = order;
    ///     Ok(())
    /// }
    ///
    /// async fn update(cx: &Context) -> Result<Outcome> {
    ///     let claim = cx.claim_each::<order::Entity>(100).concurrency(8).item_timeout(Duration::from_secs(30));
    ///     claim.for_each(async |item| send(item.model()).await).await
    /// }
    /// ```
    pub fn for_each<F, R>(self, code: F) -> impl Future<Output = Result<Outcome>> + Send
    where
        F: AsyncFnOnce(&Item<E>) -> R + for<'a> ItemFn<'a, E, Out = R> + Clone + Send + Sync,
        R: IntoSettled,
    {
        let (batch, context) = self.lending_ahead().into_parts();
        concurrently(batch, context, code)
    }

    /// Calls a closure for each claimed row as [`for_each`](Self::for_each) does, one at a time, with a value that the
    /// closure may change.
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each). With a [`concurrency`](Self::concurrency) above 1 the error is fatal.
    pub fn for_each_with<T, F, R>(self, value: &mut T, code: F) -> impl Future<Output = Result<Outcome>> + Send
    where
        T: Send,
        F: AsyncFnOnce(&mut T, &Item<E>) -> R + for<'a> ItemFnWith<'a, T, E, Out = R> + Clone + Send + Sync,
        R: IntoSettled,
    {
        let claim = self.without(
            |request| request.concurrency > 1,
            "`for_each_with` processes one item at a time: use `for_each`, or remove `.concurrency(…)`",
        );
        let (batch, context) = claim.into_parts();
        in_sequence_with(batch, context, value, code)
    }
}

/// Processes items one at a time.
async fn in_sequence<E, F, R>(
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
    while !context.as_ref().is_some_and(Context::is_stopping)
        && let Some(item) = batch.next().await?
    {
        let result = call(&item, None, || code.clone().call_with(&item)).await;
        item.settle(result).await?;
    }
    batch.commit().await
}

/// The same for code that takes a lent value.
async fn in_sequence_with<T, E, F, R>(
    batch: impl Future<Output = Result<Batch<E>>> + Send,
    context: Option<Context>,
    value: &mut T,
    code: F,
) -> Result<Outcome>
where
    T: Send,
    E: EntityTrait<Model: Sync>,
    F: for<'a> ItemFnWith<'a, T, E, Out = R> + Clone + Send + Sync,
    R: IntoSettled,
{
    let mut batch = batch.await?;
    while !context.as_ref().is_some_and(Context::is_stopping)
        && let Some(item) = batch.next().await?
    {
        let result = call(&item, item.time_limit(), || code.clone().call_with(value, &item)).await;
        item.settle(result).await?;
    }
    batch.commit().await
}
