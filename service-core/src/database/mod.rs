//! Work in a database: pools, transactions, claims on rows, and the framework's own tables.
//!
//! No driver's type is in the public API. With the feature `database` alone, the application brings sea-orm with a
//! driver; the features `sqlite` and `postgres` bring one. [`service_core::sea_orm`](crate::sea_orm) is the sea-orm
//! that this crate uses.

mod audit;
mod availability;
mod builder;
mod catch_up;
mod commit_tracker;
mod config;
mod connect;
mod context;
mod database_url;
pub(crate) mod db_time;
mod direct;
mod driver;
pub(crate) mod error_kind;
pub(crate) mod extension;
mod fence;
pub(crate) mod limited;
mod lossy;
mod nested;
mod operator_store;
mod pool_error;
pub(crate) mod registry_db;
mod registry_pool;
mod resource;
mod savepoints;
mod schema;
mod service_db;
mod sqlite_connection;
mod sqlite_file;
mod statement_monitor;
mod store;
#[cfg(feature = "testing")]
mod test_bed;
pub(crate) mod transaction;
pub(crate) mod tx_context;
mod tx_health;
mod tx_limits;
mod uncancelled;
mod wake;
mod wall_clock;
mod work;
mod write_lock;

pub use config::tables::{Override, remove_override, set_override};
pub use connect::{connect, connect_lazily};
pub use schema::{SchemaSql, check_schema, migrate, schema_sql};
/// The derive macro for [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use store::Store;
pub use transaction::Transaction;
pub use wake::trigger::{create_wake_trigger, wake_trigger_sql};
pub use work::batch::{Batch, BatchItem};
pub use work::builder::{Claim, ClaimEach};
pub use work::index::{claim_index, create_claim_index};
pub use work::item::{IntoSettled, Item};
#[doc(hidden)]
pub use work::item_fn::{ItemFn, ItemFnWith};
pub use work::retry::retry_failed;
pub use work::work_item::WorkItem;

/// The items that the derive names, and those that this repository's tests use without a registry.
#[doc(hidden)]
pub mod __private {
    pub use super::catch_up::{LastRun, last_run, set_last_run};
    pub use super::config::tables::{expire_overrides, read_config, read_overrides};
    pub use super::service_db::ServiceDb;
    pub use super::wall_clock::WallClock;
    pub use super::work::linked::LinkedTable;
    pub use super::work::work_item::{
        StatusEnum, StatusText, TimeValue, Work, WorkItem, WorkTime, any_status, known_statuses, time_value,
    };
}
