//! The trigger that wakes services when any program inserts rows.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, IdenStatic};

use crate::config::is_name;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::wake::notifier::CHANNEL;
use crate::database::work::sql::PENDING;
use crate::database::work::sql_text::{identifier, literal, qualified, quoted, schema_prefix};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// The key of the advisory lock under which triggers are created: "svc-wake" as a number.
const ADVISORY_LOCK: i64 = 0x7376_632d_7761_6b65;

/// Returns the SQL of the triggers that notify `topic` when rows of `E` wait for work, for a migration on PostgreSQL.
/// [`create_wake_trigger`] runs the SQL. Running it again changes nothing.
///
/// One trigger is called once for each `INSERT` statement, whatever program executes it. Another is called for rows
/// whose status changes to `pending`, such as failed rows that are tried again. Both notify with the commit of their
/// transaction.
///
/// The function `service_wake`, which the triggers call, is created if it is missing: in the schema of the table if the
/// entity names one, else in the current schema.
///
/// # Errors
/// No service can have this topic: topics are 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`.
pub fn wake_trigger_sql<E: WorkItem>(topic: &str) -> Result<String> {
    if !is_name(topic) {
        return Err(Error::fatal(format!(
            "`{}` is not a topic: a topic is 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`",
            topic.chars().take(100).collect::<String>()
        )));
    }
    let (entity, status) = (E::default(), quoted(E::__work().status.as_str()));
    let table = qualified(&entity);
    let schema = schema_prefix(&entity);
    let function = format!("{schema}service_wake");
    let trigger = |kind: &str, when: &str| {
        let name = trigger_name(kind, topic);
        format!(
            "  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {}::regclass AND tgname = {}) THEN\n    \
             CREATE TRIGGER {} {when} EXECUTE FUNCTION {function}({});\n  END IF;\n",
            literal(&table),
            literal(&name),
            quoted(&name),
            literal(topic)
        )
    };
    let inserted = trigger("insert", &format!("AFTER INSERT ON {table} FOR EACH STATEMENT"));
    let retried = trigger(
        "update",
        &format!(
            "AFTER UPDATE OF {status} ON {table} FOR EACH ROW \
             WHEN (NEW.{status} = '{PENDING}' AND OLD.{status} IS DISTINCT FROM NEW.{status})"
        ),
    );
    // A function that exists is not replaced: that is for its owner only.
    let exists = literal(&format!("{function}()"));
    Ok(format!(
        "DO $service_wake$\nBEGIN\n  IF to_regprocedure({exists}) IS NULL THEN\n    \
         CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $function$\n    \
         BEGIN\n      PERFORM pg_catalog.pg_notify('{CHANNEL}', TG_ARGV[0]);\n      RETURN NULL;\n    END\n    $function$;\n  \
         END IF;\n{inserted}{retried}END\n$service_wake$;\n"
    ))
}

/// Creates the triggers of [`wake_trigger_sql`] if they are missing: rows that any program inserts wake the services
/// that have `topic` in `wake_on`. Many processes may call it at once.
///
/// Creating a trigger waits until no transaction has written to the table, and other writers wait for it. If the
/// triggers exist, the table is not locked.
///
/// # Errors
/// The database is not PostgreSQL, or `topic` is not a name. Those of the database: the table, or the right to create a
/// trigger, is missing.
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
/// use service_core::prelude::*;
/// use service_core::sea_orm::DatabaseConnection;
///
/// #[service(interval = "5m", wake_on = ["orders"])]
/// async fn pack(cx: &Context) -> Result<Outcome> {
///     cx.claim::<order::Entity>(100).for_each(async |_order| ()).await
/// }
///
/// async fn prepare(db: &DatabaseConnection) -> Result<()> {
///     service_core::database::create_wake_trigger::<order::Entity>(db, "orders").await
/// }
/// ```
pub async fn create_wake_trigger<E: WorkItem>(db: &DatabaseConnection, topic: &str) -> Result<()> {
    let sql = wake_trigger_sql::<E>(topic)?;
    if db.get_database_backend() != DbBackend::Postgres {
        return Err(Error::fatal(
            "a wake trigger needs PostgreSQL; on SQLite, wake services with `tx.notify(topic)` or `services.notify(topic)`",
        ));
    }
    let tx = Transaction::begin(&TxContext::new(db.clone())).await?;
    // Two sessions cannot create a function at the same time.
    tx.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")).await?;
    tx.execute_unprepared(&sql).await?;
    tx.commit().await
}

/// The name of a trigger. It contains the topic, so that one table can notify several.
fn trigger_name(kind: &str, topic: &str) -> String {
    identifier(&format!("service_wake_{kind}_{topic}"), topic)
}
