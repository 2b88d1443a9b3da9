//! Work that lives in a database: pools, transactions, and the framework's own tables.
//!
//! Nothing here names a driver's type: with the feature `database` alone, the application brings sea-orm with the driver it
//! wants; `sqlite` and `postgres` bring one along.

mod access;
mod batch;
mod choice;
mod claim;
mod clock;
mod connect;
mod debts;
mod fault;
mod gate;
mod index;
mod lease;
mod live;
mod plan;
mod presence;
mod queue;
mod request;
mod schema;
mod settings;
mod store;
mod transaction;
mod work_item;

pub use access::Access;
pub use batch::{Batch, Item};
pub(crate) use choice::Choice;
pub use claim::{Claim, ClaimEach};
pub use clock::Clock;
pub use connect::{connect, connect_lazily};
pub use debts::Debts;
pub(crate) use fault::is_out_of_reach;
pub use gate::{CommitGate, CommitGuard};
pub use index::{claim_index, create_claim_index};
#[cfg(feature = "testing")]
pub(crate) use live::look;
pub(crate) use live::{Live, SHARED_PATIENCE, is_away, keep_watching, look_before_all, look_if_there};
pub(crate) use presence::{Outage, Presence};
pub(crate) use queue::WriteQueue;
pub use schema::{SchemaSql, check_schema, migrate, schema_sql};
/// What is derived: see [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use settings::{
    BadOverride, BadValue, ConfigRow, LastRun, Override, expire_overrides, last_run, read_config, read_overrides,
    remove_override, set_last_run, set_override,
};
pub use store::Store;
pub use transaction::Transaction;
pub use work_item::WorkItem;

/// What the derive names.
#[doc(hidden)]
pub mod __private {
    pub use super::work_item::{
        StatusEnum, StatusText, TimeValue, Work, WorkItem, WorkTime, any_status, known_statuses, time_value,
    };
}
