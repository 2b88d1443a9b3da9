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

pub(crate) use availability::{Outage, Presence};
pub use commit_tracker::{CommitGate, CommitGuard};
pub use config::tables::{
    BadOverride, BadValue, ConfigRow, LastRun, Override, expire_overrides, last_run, read_config, read_overrides,
    remove_override, set_last_run, set_override,
};
#[cfg(feature = "testing")]
pub(crate) use config::watcher::look;
pub(crate) use config::watcher::{Live, SHARED_PATIENCE, is_away, keep_watching, look_before_all, look_if_there};
pub use connect::{connect, connect_lazily};
pub(crate) use context::Choice;
pub(crate) use error_kind::is_out_of_reach;
pub use schema::{SchemaSql, check_schema, migrate, schema_sql};
pub use service_db::Access;
/// What is derived: see [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use store::Store;
pub use transaction::Transaction;
pub use wall_clock::Clock;
pub use work::batch::{Batch, Item};
pub use work::builder::{Claim, ClaimEach};
pub use work::index::{claim_index, create_claim_index};
pub use work::settlement::Debts;
pub use work::work_item::WorkItem;
pub(crate) use write_lock::WriteQueue;

/// What the derive names.
#[doc(hidden)]
pub mod __private {
    pub use super::work::work_item::{
        StatusEnum, StatusText, TimeValue, Work, WorkItem, WorkTime, any_status, known_statuses, time_value,
    };
}
