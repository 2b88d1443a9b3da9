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
mod lease;
mod plan;
mod schema;
mod transaction;
mod work_item;

pub use access::Access;
pub use batch::{Batch, Item};
pub(crate) use choice::Choice;
pub use claim::{Claim, ClaimEach};
pub use clock::Clock;
pub use connect::{connect, connect_lazily};
pub use debts::Debts;
pub use gate::{CommitGate, CommitGuard};
pub use schema::{check_schema, migrate, schema_sql};
/// What is derived: see [`WorkItem`](trait@WorkItem).
pub use service_macros::WorkItem;
pub use transaction::Transaction;
pub use work_item::WorkItem;

/// What the derive names.
#[doc(hidden)]
pub mod __private {
    pub use super::work_item::{StatusEnum, Work, WorkItem, WorkTime, assert_status, time_value};
}
