//! [`Store`]: small typed values of a service that are kept across restarts.

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, InsertStatement, OnConflict, Query};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::service::error::{Error, Result};

/// The number of bytes that a write probe writes.
const PROBE_BYTES: usize = 64 * 1024;

/// Small values of one service, stored as JSON under a key in `service_store`: a cursor, a date, a token.
///
/// Each service has its own values. A value is read and written as a whole.
#[derive(Clone, Debug)]
pub struct Store {
    /// The error that there is no database, which is returned when the store is used.
    service_db: Result<ServiceDb>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the value under `{key}` in the store of `{service_id}` is not a `{wanted}`: change the type back, read it as `serde_json::Value`, or `remove` it"
)]
struct UnreadableValue {
    service_id: String,
    key: String,
    wanted: &'static str,
    source: serde_json::Error,
}

#[derive(Debug, thiserror::Error)]
#[error("`{wanted}` cannot be kept as JSON in the store of `{service_id}` under `{key}`")]
struct UnwritableValue {
    service_id: String,
    key: String,
    wanted: &'static str,
    source: serde_json::Error,
}

impl ServiceDb {
    /// The store of this service.
    pub fn store(&self) -> Store {
        Store::new(Ok(self))
    }
}

impl Store {
    pub(crate) fn new(service_db: Result<&ServiceDb>) -> Self {
        Self { service_db: service_db.cloned() }
    }

    fn service_db(&self) -> Result<&ServiceDb> {
        self.service_db.as_ref().map_err(Clone::clone)
    }

    /// Returns the value under `key`, or `None` if there is none.
    ///
    /// ```
    /// # async fn run(cx: &service_core::Context) -> service_core::Result<()> {
    /// let cursor: u64 = cx.store().get("cursor").await?.unwrap_or_default();
    /// cx.store().set("cursor", &(cursor + 1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the database; or the value is not a `T`, then the message names both.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let service_db = self.service_db()?;
        service_db.ensure_tables().await?;
        let found = self.get_in(service_db.db(), key).await;
        service_db.explained(found).await
    }

    /// Returns the value as [`get`](Self::get) does, within a transaction.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_in<T: DeserializeOwned>(&self, tx: &impl ConnectionTrait, key: &str) -> Result<Option<T>> {
        let service_db = self.service_db()?;
        let select = Query::select()
            .column("value")
            .from("service_store")
            .and_where(Expr::col("service_id").eq(&*service_db.service_id))
            .and_where(Expr::col("key").eq(key))
            .to_owned();
        let Some(row) = tx.query_one(&select).await? else { return Ok(None) };
        let text: String = row.try_get("", "value")?;
        let value = serde_json::from_str(&text).map_err(|source| UnreadableValue {
            service_id: service_db.service_id.to_string(),
            key: key.to_owned(),
            wanted: std::any::type_name::<T>(),
            source,
        })?;
        Ok(Some(value))
    }

    /// Stores `value` under `key`, in a transaction of its own. If the future is dropped before the commit, the value
    /// is unchanged; a commit that has begun continues. On SQLite, while a batch of this service is open, the call
    /// fails after 5 s: use [`set_in`](Self::set_in) with `item.tx()` instead.
    ///
    /// # Errors
    /// Those of the database; the registry has none; or `value` has no JSON form (this error is fatal).
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        let upsert = self.upsert(key, value)?;
        let service_db = self.service_db()?;
        service_db.ensure_tables().await?;
        let tx = Transaction::begin(&service_db.tx).await?;
        tx.execute(&upsert).await?;
        tx.commit().await
    }

    /// Stores `value` under `key` in the transaction `tx`: a cursor commits together with the work that it counts. If
    /// `tx` is rolled back, the value is unchanged.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn set_in<T: Serialize + ?Sized>(&self, tx: &impl ConnectionTrait, key: &str, value: &T) -> Result<()> {
        tx.execute(&self.upsert(key, value)?).await?;
        Ok(())
    }

    /// Removes the value under `key`. Returns whether there was one. Cancellation, and an open batch on SQLite: as for
    /// [`set`](Self::set).
    ///
    /// # Errors
    /// Those of the database; or the registry has none.
    pub async fn remove(&self, key: &str) -> Result<bool> {
        let service_db = self.service_db()?;
        service_db.ensure_tables().await?;
        let tx = Transaction::begin(&service_db.tx).await?;
        let removed = self.delete(&tx, key).await?;
        tx.commit().await?;
        Ok(removed)
    }

    async fn delete(&self, tx: &impl ConnectionTrait, key: &str) -> Result<bool> {
        let service_db = self.service_db()?;
        let delete = Query::delete()
            .from_table("service_store")
            .and_where(Expr::col("service_id").eq(&*service_db.service_id))
            .and_where(Expr::col("key").eq(key))
            .to_owned();
        Ok(tx.execute(&delete).await?.rows_affected() > 0)
    }

    fn upsert<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<InsertStatement> {
        let service_db = self.service_db()?;
        let service_id = &*service_db.service_id;
        let text = serde_json::to_string(value).map_err(|source| {
            Error::fatal(UnwritableValue {
                service_id: service_id.to_owned(),
                key: key.to_owned(),
                wanted: std::any::type_name::<T>(),
                source,
            })
        })?;
        let now = crate::database::wall_clock::format_time(service_db.clock.now());
        Ok(Query::insert()
            .into_table("service_store")
            .columns(["service_id", "key", "value", "updated_at"])
            .values_panic([service_id.into(), key.into(), text.into(), now.into()])
            .on_conflict(OnConflict::columns(["service_id", "key"]).update_columns(["value", "updated_at"]).to_owned())
            .to_owned())
    }
}

/// Writes a value as large as a small batch, and removes it. The commit that follows shows whether the database accepts
/// writes.
pub(crate) async fn write_and_remove(db: &impl ConnectionTrait) -> Result<()> {
    let value: String = std::iter::repeat_with(fastrand::alphanumeric).take(PROBE_BYTES).collect();
    let (service_id, key) = ("", "write probe");
    let insert = Query::insert()
        .into_table("service_store")
        .columns(["service_id", "key", "value", "updated_at"])
        .values_panic([service_id.into(), key.into(), value.into(), String::new().into()])
        .on_conflict(OnConflict::columns(["service_id", "key"]).update_column("value").to_owned())
        .to_owned();
    db.execute(&insert).await?;
    let delete = Query::delete()
        .from_table("service_store")
        .and_where(Expr::col("service_id").eq(service_id))
        .and_where(Expr::col("key").eq(key))
        .to_owned();
    db.execute(&delete).await?;
    Ok(())
}
