//! `data_processor`: works off pending readings into daily and monthly figures.
//!
//! A reading's figures and its new status are one commit: killed at any moment, it is either done or still pending.

use chrono::Utc;
use sea_orm::{ActiveModelTrait, ActiveValue::Set, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use sea_orm::{QueryOrder, QuerySelect};
use service_core::prelude::*;
use tracing::{info, warn};

use crate::figures;
use crate::tables::{COMPLETED, FAILED, PENDING, reading};

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
        let tx = cx.begin().await?;
        let batch = reading::Entity::find()
            .filter(reading::Column::Status.eq(PENDING))
            .order_by_asc(reading::Column::Id)
            .limit(self.settings.batch_size)
            .all(&tx)
            .await?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(Outcome::idle()) };
        let (span, size) = (format!("{} to {}", first.date, last.date), batch.len() as u64);

        let mut failed = 0;
        for row in batch {
            let done = figures::add(&tx, &row.observation()).await;
            let (status, message) = match done {
                Ok(()) => (COMPLETED, None),
                Err(error) if error.is_final() => {
                    warn!("{}, line {}: {error}", row.file, row.line);
                    failed += 1;
                    (FAILED, Some(error.to_string()))
                }
                Err(error) => return Err(error.into()),
            };
            let mut row = row.into_active_model();
            row.status = Set(status.to_owned());
            row.error_message = Set(message);
            row.updated_at = Set(Some(Utc::now()));
            row.update(&tx).await?;
        }
        tx.commit().await?;

        info!("{size} readings, {span}: {} completed, {failed} failed", size - failed);
        let outcome = Outcome::processed(size - failed).failed(failed);
        Ok(if size == self.settings.batch_size { outcome.again() } else { outcome })
    }
}
