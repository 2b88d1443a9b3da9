//! Transactions that are begun on a [`Transaction`]: savepoints.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use sea_orm::prelude::async_trait::async_trait;
use sea_orm::{
    AccessMode, DatabaseTransaction, IsolationLevel, TransactionError, TransactionOptions, TransactionTrait,
};

use crate::database::error_kind::DbResult;
use crate::database::transaction::Transaction;

type Callback<'c, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>;

/// A transaction that is begun on a transaction is a savepoint.
#[async_trait]
impl TransactionTrait for Transaction {
    type Transaction = DatabaseTransaction;

    async fn begin(&self) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin().await
    }

    async fn begin_with_config(
        &self,
        isolation: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin_with_config(isolation, access_mode).await
    }

    async fn begin_with_options(&self, options: TransactionOptions) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin_with_options(options).await
    }

    async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c DatabaseTransaction) -> Callback<'c, T, E> + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        let was_nested = self.is_nested();
        let result = self.nest().await.map_err(TransactionError::Connection)?.transaction(callback).await;
        self.callback_ended(was_nested);
        result
    }

    async fn transaction_with_config<F, T, E>(
        &self,
        callback: F,
        isolation: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c DatabaseTransaction) -> Callback<'c, T, E> + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        let was_nested = self.is_nested();
        let tx = self.nest().await.map_err(TransactionError::Connection)?;
        let result = tx.transaction_with_config(callback, isolation, access_mode).await;
        self.callback_ended(was_nested);
        result
    }
}
