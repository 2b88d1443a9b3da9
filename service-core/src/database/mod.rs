//! Work that lives in a database: pools, transactions, and the framework's own tables.
//!
//! Nothing here names a driver's type: with the feature `database` alone, the application brings sea-orm with the driver it
//! wants; `sqlite` and `postgres` bring one along.

mod access;
mod choice;
mod clock;
mod connect;
mod fault;
mod gate;
mod schema;
mod transaction;

pub use access::Access;
pub(crate) use choice::Choice;
pub use clock::Clock;
pub use connect::{connect, connect_lazily};
pub use gate::{CommitGate, CommitGuard};
pub use schema::{check_schema, migrate, schema_sql};
pub use transaction::Transaction;
