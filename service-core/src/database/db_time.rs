//! [`DbTime`]: the time that leases and overrides are compared with. It is the database's, because the clocks of the machines
//! that share the database differ.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ConnectionTrait, DbBackend};

use crate::database::error_kind::DbResult;
use crate::database::wall_clock::WallClock;

/// The clock of the database, or that of a test.
#[derive(Clone, Debug, Default)]
pub(crate) enum DbTime {
    #[default]
    Database,
    Virtual(WallClock),
}

/// The time of the database's clock in milliseconds since 1970, as SQL.
pub(crate) fn database_millis(backend: DbBackend) -> &'static str {
    match backend {
        // `now()` would be the start of the transaction, which may have waited for a lock since.
        DbBackend::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
        _ => "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    }
}

impl DbTime {
    /// The current time in milliseconds since 1970, as SQL.
    pub(crate) fn millis(&self, backend: DbBackend) -> Expr {
        match self {
            Self::Virtual(clock) => Expr::Constant(clock.now().timestamp_millis().into()),
            Self::Database => Expr::cust(database_millis(backend)),
        }
    }

    /// The current time.
    pub(crate) async fn now(&self, db: &impl ConnectionTrait) -> DbResult<DateTime<Utc>> {
        if let Self::Virtual(clock) = self {
            return Ok(clock.now());
        }
        let now = "now";
        let select = Query::select().expr_as(self.millis(db.get_database_backend()), now).to_owned();
        let millis: Option<i64> = match db.query_one(&select).await? {
            Some(row) => row.try_get("", "now")?,
            None => None,
        };
        Ok(millis.and_then(DateTime::from_timestamp_millis).unwrap_or_else(Utc::now))
    }
}
