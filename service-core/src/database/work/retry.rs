//! [`retry_failed`]: makes failed rows pending again.

use sea_orm::sea_query::{Condition, IntoCondition};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::wake::notifier::Notifier;
use crate::database::work::attempt::Backoff;
use crate::database::work::portions::Portions;
use crate::database::work::sql::{FAILED, TableSql};
use crate::database::work::work_item::WorkItem;
use crate::service::error::Result;

/// Makes the `failed` rows that meet a condition `pending` again, as if they were new: their attempts are 0, and error
/// and time are NULL. Returns how many there were.
///
/// If `db` is the pool of a registry, its services that claim from the table are woken after each commit, if they have
/// topics (`wake_on`), and on PostgreSQL so are those of other replicas. With another pool this takes a [wake
/// trigger](crate::database::create_wake_trigger).
///
/// The rows are changed in portions of at most 1,000, each in a transaction of its own, so that workers need not wait
/// for all of them. A row that fails again in the meantime is not changed a second time.
///
/// If the future is dropped, the portions so far are kept.
///
/// # Errors
/// Those of the database, or a key does not find its row. The portions before are kept, so the function can be called
/// again.
///
/// ```
/// # mod order {
/// #     use sea_orm::entity::prelude::*;
/// #     #[derive(Clone, Debug, PartialEq, DeriveEntityModel, service_core::WorkItem)]
/// #     #[sea_orm(table_name = "shop_order")]
/// #     #[work_item(status = "status")]
/// #     pub struct Model { #[sea_orm(primary_key)] pub id: i64, pub product: String, pub status: String }
/// #     #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
/// #     pub enum Relation {}
/// #     impl ActiveModelBehavior for ActiveModel {}
/// # }
/// use sea_orm::ColumnTrait;
/// use service_core::database::retry_failed;
/// use service_core::sea_orm::DatabaseConnection;
///
/// async fn tea_is_back(db: &DatabaseConnection) -> service_core::Result<()> {
///     let orders = retry_failed::<order::Entity>(db, order::Column::Product.eq("tea")).await?;
///     println!("{orders} orders are tried again");
///     Ok(())
/// }
/// ```
pub async fn retry_failed<E: WorkItem>(db: &DatabaseConnection, condition: impl IntoCondition) -> Result<u64> {
    let mut retried = 0;
    retry_in_portions::<E>(db, condition.into_condition(), &mut retried).await?;
    Ok(retried)
}

/// As [`retry_failed`]. Adds the rows of each portion to `retried`, also if a later one fails.
///
/// # Errors
/// As for [`retry_failed`].
pub(crate) async fn retry_in_portions<E: WorkItem>(
    db: &DatabaseConnection,
    condition: Condition,
    retried: &mut u64,
) -> Result<()> {
    let table = TableSql::of::<E>(db.get_database_backend(), Backoff::default());
    let condition = Condition::all().add(table.has_status(FAILED)).add(condition);
    let notifier = Notifier::of_pool(db).unwrap_or_default();
    let topics = notifier.topics_of_workers(&table.name);
    let cx = TxContext { notifier, ..TxContext::new(db.clone()) };
    let mut portions = Portions::new(condition.clone());
    loop {
        let keys = portions.next::<E>(db, &table).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let tx = Transaction::begin(&cx).await?;
        let now = cx.notifier.now();
        // With the condition again, because the rows may have changed since their keys were read.
        let update = table.retry(&keys, now).cond_where(condition.clone()).to_owned();
        let rows = tx.execute(&update).await?.rows_affected();
        topics.iter().for_each(|topic| tx.notify(topic));
        tx.commit().await?;
        *retried += rows;
    }
}
