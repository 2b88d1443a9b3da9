//! A service with a fire every second, for the suite and for the processes that it kills.

use sea_orm::{ConnectionTrait, Statement};
use service_core::prelude::*;

pub(crate) const FIRES: &str = "fires";

pub(crate) struct Fires;

#[service(cron = "* * * * * *", max_failures = 1000, retry_delay = 0.05, discover = false)]
impl Fires {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        let process = std::process::id();
        let insert = format!("INSERT INTO fired (process) VALUES ({process})");
        tx.execute_raw(Statement::from_string(tx.get_database_backend(), insert)).await?;
        // So that some kills interrupt a run.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        tx.commit().await
    }
}
