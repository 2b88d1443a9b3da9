//! `data_processor`: computes daily and monthly figures from pending readings.
//!
//! The figures of a reading and its new status are one commit. If the process is killed at any moment, the reading is
//! either completed or still pending.

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
        let readings = cx.claim::<reading::Entity>(self.settings.batch_size);
        let mut dates = Vec::new();
        let added = readings.for_each_with(&mut dates, async |dates, item| {
            let row = item.model();
            dates.push(row.date);
            figures::add(item.tx(), &row.observation()).await.map_err(|error| {
                warn!("{}, line {}: {error}", row.file, row.line);
                // A wrong reading is never retried; an error of the database is.
                if error.is_final() { Error::fatal(error) } else { Error::new(error) }
            })
        });
        let outcome = added.await?;

        if let (Some(first), Some(last)) = (dates.iter().min(), dates.iter().max()) {
            let (completed, failed) = (outcome.items_processed(), outcome.items_failed());
            info!("{} readings, {first} to {last}: {completed} completed, {failed} failed", dates.len());
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sea_orm::{EntityTrait, PaginatorTrait};

    use super::*;
    use crate::{bundled, import, tables};

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_requests_the_next_run_at_once() {
        let bed = TestBed::new();
        let db = bed.sqlite().await;
        tables::create(&db).await.unwrap();
        import::import(&db, "seattle-weather.csv", bundled::OBSERVATIONS).await.unwrap();

        let mut service = DataProcessor { settings: Settings { batch_size: 1400 } };
        let run = bed.update(&mut service).await;
        assert_eq!((run.processed(), run.failed(), run.again()), (1400, 0, true));
        let run = bed.update(&mut service).await;
        assert_eq!((run.processed(), run.failed(), run.again()), (61, 0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn readings_that_arrive_later_are_processed_by_a_later_run() {
        let bed = TestBed::new().set("batch_size", 5);
        let db = bed.sqlite().await;
        tables::create(&db).await.unwrap();
        let service = bed.start_of::<DataProcessor>().await;
        bed.run_for(Duration::from_secs(10)).await;
        assert_eq!(service.health().total_processed, 0);

        import::import(&db, "handmade-2016.csv", bundled::HANDMADE).await.unwrap();
        bed.run_for(Duration::from_secs(2)).await;
        let health = service.health();
        assert_eq!((health.total_processed, health.error_count), (6, 0), "{health:?}");
        assert_eq!(tables::daily::Entity::find().count(&db).await.unwrap(), 6);
    }
}
