//! A service that writes its epoch and a number with each run, in the process that the suite starts and stops.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use service_core::{Context, Error, Result, ServiceRegistry, service};

/// The table of the runs. Rows are only added.
#[allow(dead_code, reason = "the worker does not create it")]
pub(crate) fn table(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => {
            "CREATE TABLE ledger (id BIGSERIAL PRIMARY KEY, epoch BIGINT NOT NULL, seq BIGINT NOT NULL, \
             began TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())"
        }
        _ => "CREATE TABLE ledger (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch BIGINT NOT NULL, seq BIGINT NOT NULL)",
    }
}

#[derive(Default)]
struct Ledger {
    seq: i64,
}

#[service(
    interval = 0.02,
    scope = "cluster",
    lease = 1,
    max_failures = "unlimited",
    retry_delay = 0.05,
    discover = false
)]
impl Ledger {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let epoch = cx.lease_epoch().ok_or_else(|| Error::fatal("there is no lease"))?;
        let tx = cx.begin().await?;
        self.seq += 1;
        let (backend, values) = (tx.get_database_backend(), [i64::try_from(epoch)?.into(), self.seq.into()]);
        let sql = "INSERT INTO ledger (epoch, seq) VALUES ($1, $2)";
        tx.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        // A process that is stopped here has a transaction open.
        tokio::time::sleep(Duration::from_millis(fastrand_like(self.seq))).await;
        tx.commit().await
    }
}

/// Up to 7 ms, without a dependency.
fn fastrand_like(seed: i64) -> u64 {
    u64::try_from(seed.wrapping_mul(7919).rem_euclid(8)).unwrap_or_default()
}

/// Runs until a signal stops it.
pub(crate) async fn run(url: &str) -> Result<()> {
    let builder = ServiceRegistry::builder().without_discovered().database_url(url);
    builder.service_of::<Ledger>("ledger").start_all().await?.until_shutdown().await
}
