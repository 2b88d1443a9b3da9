//! Work that lives in a database: pools, transactions, and the framework's own tables.
//!
//! Nothing here names a driver's type: with the feature `database` alone, the application brings sea-orm with the driver it
//! wants; `sqlite` and `postgres` bring one along.

mod availability;
mod commit_tracker;
mod config;
mod connect;
mod context;
mod error_kind;
mod schema;
mod service_db;
mod store;
mod transaction;
mod wall_clock;
mod work;
mod write_lock;

pub(crate) use availability::{Availability, Outage};
pub use commit_tracker::{CommitGuard, CommitTracker};
pub use config::tables::{
    BadOverride, BadValue, ConfigRow, LastRun, Override, expire_overrides, last_run, read_config, read_overrides,
    remove_override, set_last_run, set_override,
};
#[cfg(feature = "testing")]
pub(crate) use config::watcher::poll;
pub(crate) use config::watcher::{
    SHARED_POLL_TIMEOUT, TableWatcher, confirm_down, keep_watching, poll_before_start, poll_if_up,
};
pub use connect::{connect, connect_lazily};
pub(crate) use context::DatabaseSource;
pub(crate) use error_kind::is_out_of_reach;
pub use schema::{SchemaSql, check_schema, migrate, schema_sql};
pub use service_db::ServiceDb;
/// What is derived: see [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use store::Store;
pub use transaction::Transaction;
pub use wall_clock::WallClock;
pub use work::batch::{Batch, Item};
pub use work::builder::{Claim, ClaimEach};
pub use work::index::{claim_index, create_claim_index};
pub use work::settlement::Settlements;
pub use work::work_item::WorkItem;
pub(crate) use write_lock::WriteLock;

/// What the derive names.
#[doc(hidden)]
pub mod __private {
    pub use super::work::work_item::{
        StatusEnum, StatusText, TimeValue, Work, WorkItem, WorkTime, any_status, known_statuses, time_value,
    };
}
