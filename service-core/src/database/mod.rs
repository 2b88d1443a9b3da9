//! Work that lives in a database: pools, transactions, and the framework's own tables.
//!
//! No driver's type is in the public API. With the feature `database` alone, the application brings sea-orm with a driver;
//! the features `sqlite` and `postgres` bring one. [`service_core::sea_orm`](crate::sea_orm) is the sea-orm that this crate uses.

mod availability;
mod catch_up;
mod commit_tracker;
mod config;
mod connect;
mod context;
mod db_time;
mod error_kind;
mod schema;
mod service_db;
mod sqlite_connection;
mod store;
mod transaction;
mod wall_clock;
mod work;
mod write_lock;

pub(crate) use availability::{Availability, Outage};
pub(crate) use catch_up::{LastRun, last_run, set_last_run};
pub use config::tables::{Override, remove_override, set_override};
#[cfg(feature = "testing")]
pub(crate) use config::watcher::poll;
pub(crate) use config::watcher::{
    SHARED_POLL_TIMEOUT, TableWatcher, confirm_down, keep_watching, poll_before_start, poll_if_up,
};
pub use connect::{connect, connect_lazily};
pub(crate) use context::DatabaseSource;
pub(crate) use error_kind::ErrorKind;
pub use schema::{SchemaSql, check_schema, migrate, schema_sql};
pub(crate) use service_db::ServiceDb;
/// The derive macro for [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use store::Store;
pub use transaction::Transaction;
pub(crate) use wall_clock::WallClock;
pub use work::batch::{Batch, Item};
pub use work::builder::{Claim, ClaimEach};
pub use work::index::{claim_index, create_claim_index};
pub use work::work_item::WorkItem;
pub(crate) use write_lock::WriteLock;

/// What the derive names, and what this repository's tests use without a registry.
#[doc(hidden)]
pub mod __private {
    pub use super::catch_up::{LastRun, last_run, set_last_run};
    pub use super::config::tables::{expire_overrides, read_config, read_overrides};
    pub use super::service_db::ServiceDb;
    pub use super::wall_clock::WallClock;
    pub use super::work::work_item::{
        StatusEnum, StatusText, TimeValue, Work, WorkItem, WorkTime, any_status, known_statuses, time_value,
    };
}
