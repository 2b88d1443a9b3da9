//! The index that claims need.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, IdenStatic, Iterable, PrimaryKeyToColumn,
    Statement,
};

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::limited::SHORT_LOCK_WAIT;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::work::due::{instant_sql, is_text_time};
use crate::database::work::sql::PENDING;
use crate::database::work::sql_text::{identifier, qualified, quoted, schema_prefix};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// Returns the SQL of the index that claims of `E` need, for a migration. The index contains the pending rows only, in
/// the order in which they are claimed, so completed rows do not make it larger. [`create_claim_index`] runs the SQL.
///
/// On SQLite, times that are stored as text are indexed as instants. A claim with `order_by` or `filter` may need
/// another index.
pub fn claim_index<E: WorkItem>(backend: DbBackend) -> String {
    let (work, entity) = (E::__work(), E::default());
    let mut columns = Vec::new();
    if let Some((column, value)) = work.available_at {
        let name = quoted(column.as_str());
        columns.push(match backend {
            DbBackend::Postgres if column.def().is_null() => format!("{name} NULLS FIRST"),
            DbBackend::Sqlite if is_text_time(value) => instant_sql(&name),
            _ => name,
        });
    }
    columns.extend(E::PrimaryKey::iter().map(|key| quoted(key.into_column().as_str())));
    // SQLite has the schema in the name of the index, PostgreSQL in the name of the table.
    let (index, table) = match backend {
        DbBackend::Sqlite => (index_path::<E>(), quoted(entity.table_name())),
        _ => (quoted(&claim_index_name::<E>()), qualified(&entity)),
    };
    format!(
        "CREATE INDEX IF NOT EXISTS {index} ON {table} ({}) WHERE {} = '{PENDING}'",
        columns.join(", "),
        quoted(work.status.as_str()),
    )
}

/// The same in place of an index of this name.
pub(crate) fn replace_claim_index<E: WorkItem>(backend: DbBackend) -> String {
    format!("DROP INDEX IF EXISTS {}; {}", index_path::<E>(), claim_index::<E>(backend))
}

/// The claim index with the schema of its table.
fn index_path<E: WorkItem>() -> String {
    format!("{}{}", schema_prefix(&E::default()), quoted(&claim_index_name::<E>()))
}

/// The name of the claim index.
pub(crate) fn claim_index_name<E: WorkItem>() -> String {
    let entity = E::default();
    let table = entity.table_name();
    identifier(&format!("{table}_claim_idx"), table)
}

/// Creates the index of [`claim_index`] if it is missing. An invalid index of this name, as PostgreSQL leaves it after
/// `CREATE INDEX CONCURRENTLY` has failed, is replaced; on SQLite also one that an earlier version created for times as
/// texts. Many processes may call it at once.
///
/// Writers of the table wait while PostgreSQL creates the index, readers do not. If another session builds the index at
/// this moment, a warning says so, and nothing is changed: claims work without the index, only slower.
///
/// # Errors
/// Another index has this name, and does not serve the claims. An invalid index cannot be dropped within 2 s, because a
/// transaction uses the table. Or those of the database: the table, or the right to create an index, is missing.
pub async fn create_claim_index<E: WorkItem>(db: &DatabaseConnection) -> Result<()> {
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    loop {
        // Without a lock first: at most starts there is nothing to do.
        let step = next_step::<E>(db).await?;
        if step == Step::Done {
            return Ok(());
        }
        let tx = Transaction::begin(&TxContext::new(db.clone())).await?;
        if is_postgres && !lock_indices::<E>(&tx, step).await? {
            let (table, index) = (qualified(&E::default()), claim_index_name::<E>());
            crate::log::warn!(
                table,
                index,
                "the claim index is not valid, and is left as it is, because another session builds it or changes the table; until it is \
                 valid, each claim reads the whole table"
            );
            return Ok(());
        }
        match next_step::<E>(&tx).await? {
            Step::Done => return Ok(()),
            Step::Drop => drop_index::<E>(&tx).await?,
            // Something else that has the name is an error.
            Step::Create => {
                let sql = claim_index::<E>(tx.get_database_backend()).replacen(" IF NOT EXISTS", "", 1);
                tx.execute_unprepared(&sql).await?;
            }
        }
        // A drop is committed before the index is built, because readers wait for its transaction.
        tx.commit().await?;
    }
}

/// What has to be done next, so that an index serves the claims.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Drop,
    Create,
    Done,
}

async fn next_step<E: WorkItem>(db: &impl ConnectionTrait) -> Result<Step> {
    let backend = db.get_database_backend();
    match existing::<E>(db).await? {
        None => Ok(Step::Create),
        Some((definition, is_valid)) if !is_valid || is_by_text::<E>(&definition) => Ok(Step::Drop),
        Some((definition, _)) if serves::<E>(&definition, backend) => Ok(Step::Done),
        Some((definition, _)) => {
            let (name, needed) = (claim_index_name::<E>(), claim_index::<E>(backend));
            Err(Error::msg(format!(
                "the index `{name}` exists, and does not serve the claims: drop or rename it; it is: {definition}; needed is: {needed}"
            )))
        }
    }
}

/// Takes the lock under which PostgreSQL changes the indices of a table, so that one process at a time does so. Readers
/// and writers do not wait for it. `CREATE INDEX CONCURRENTLY` holds it until its index is valid: `false` if the lock
/// for a drop is not free.
async fn lock_indices<E: WorkItem>(tx: &Transaction, step: Step) -> Result<bool> {
    let limit = if step == Step::Drop { SHORT_LOCK_WAIT } else { "" };
    let lock = format!("{limit}LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", qualified(&E::default()));
    match tx.execute_unprepared(&lock).await {
        Err(error) if step == Step::Drop && ErrorKind::has_code(&error, LOCK_NOT_FREE) => Ok(false),
        locked => Ok(locked.map(|_| true)?),
    }
}

async fn drop_index<E: WorkItem>(tx: &Transaction) -> Result<()> {
    let (path, index) = (index_path::<E>(), claim_index_name::<E>());
    // Readers wait behind this statement while it waits for a transaction that has read the table.
    let limit = if tx.get_database_backend() == DbBackend::Postgres { SHORT_LOCK_WAIT } else { "" };
    match tx.execute_unprepared(&format!("{limit}DROP INDEX {path}")).await {
        Err(source) if ErrorKind::has_code(&source, LOCK_NOT_FREE) => Err(Error::new(InUse { index, source })),
        dropped => Ok(dropped.map(drop)?),
    }
}

/// The SQLSTATE after this time.
const LOCK_NOT_FREE: &str = "55P03";

#[derive(Debug, thiserror::Error)]
#[error(
    "the index `{index}` is invalid, and cannot be dropped while other transactions use its table: drop it yourself, or try again"
)]
struct InUse {
    index: String,
    source: DbErr,
}

/// Whether it is the index of an earlier version, which had no times that are stored as seconds.
fn is_by_text<E: WorkItem>(definition: &str) -> bool {
    E::__work()
        .available_at
        .is_some_and(|(column, _)| definition.contains(&format!("julianday({})", quoted(column.as_str()))))
}

/// Whether an index of this definition serves the claims.
pub(crate) fn serves<E: WorkItem>(definition: &str, backend: DbBackend) -> bool {
    let work = E::__work();
    let columns = definition.split_once('(').map_or("", |(_, columns)| columns);
    let by_instant = backend == DbBackend::Sqlite
        && work.available_at.is_some_and(|(column, value)| is_text_time(value) && names(columns, column.as_str()));
    names(columns, work.status.as_str()) && (!by_instant || names(columns, "unixepoch"))
}

/// Whether a part of a definition has this name, with or without quotes. SQLite does not distinguish capital letters.
pub(crate) fn names(definition: &str, name: &str) -> bool {
    let (definition, name) = (&*definition.to_ascii_lowercase(), &*name.to_ascii_lowercase());
    definition.contains(&quoted(name))
        || definition.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

/// The definition of the index that exists, and whether it is valid. The index of a partitioned table counts as valid:
/// an operator may have created it `ON ONLY` the table, to build it for one partition after the other.
async fn existing<E: WorkItem>(db: &impl ConnectionTrait) -> DbResult<Option<(String, bool)>> {
    let (backend, name, entity) = (db.get_database_backend(), claim_index_name::<E>(), E::default());
    // The definition of an invalid index is not read: the query would fail if another process drops the index
    // meanwhile.
    let sql = "SELECT is_valid, CASE WHEN is_valid THEN pg_get_indexdef(id) ELSE '' END AS definition FROM ( \
               SELECT i.indexrelid AS id, i.indisvalid OR c.relkind = 'I' AS is_valid \
               FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid \
               WHERE i.indrelid = to_regclass($1) AND c.relname = $2) AS existing";
    let sql = match backend {
        DbBackend::Postgres => Statement::from_sql_and_values(backend, sql, [qualified(&entity).into(), name.into()]),
        _ => {
            let schema = schema_prefix(&entity);
            let sql = format!(
                "SELECT coalesce(sql, '') AS definition, true AS is_valid FROM {schema}sqlite_master WHERE type = 'index' AND name = ? COLLATE NOCASE"
            );
            Statement::from_sql_and_values(backend, sql, [name.into()])
        }
    };
    let row = db.query_one_raw(sql).await?;
    row.map(|row| Ok((row.try_get("", "definition")?, row.try_get("", "is_valid")?))).transpose()
}
