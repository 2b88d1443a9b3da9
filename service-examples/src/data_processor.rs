//! `data_processor`: works off pending readings into daily and monthly figures.
//!
//! A reading's figures and its new status are one commit: killed at any moment, it is either done or still pending.

use service_core::prelude::*;
use tracing::{info, warn};

use crate::figures;
use crate::tables::reading;

/// `[data_processor]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Readings that share a transaction.
    batch_size: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { batch_size: 100 }
    }
}

/// The service.
pub struct DataProcessor {
    settings: Settings,
}

#[service(interval = 2, max_failures = 10, retry_backoff = 2.0)]
impl DataProcessor {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self { settings }
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim::<reading::Entity>(self.settings.batch_size).await?;
        let (mut dates, mut refused) = (Vec::new(), 0);
        while let Some(item) = batch.next().await? {
            let row = item.model();
            dates.push(row.date);
            let added = figures::add(item.tx(), &row.observation()).await.map_err(|error| {
                warn!("{}, line {}: {error}", row.file, row.line);
                refused += 1;
                // A reading that is wrong stays wrong; a database may recover.
                if error.is_final() { Error::fatal(error) } else { Error::new(error) }
            });
            item.settle(added).await?;
        }
        let outcome = batch.commit().await?;

        if let (Some(first), Some(last)) = (dates.iter().min(), dates.iter().max()) {
            let completed = dates.len() - refused;
            info!("{} readings, {first} to {last}: {completed} completed, {refused} failed", dates.len());
        }
        Ok(outcome)
    }
}
