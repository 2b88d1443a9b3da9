//! `cleanup_service`: deletes readings that were processed more than a week ago. Their figures stay. The store keeps
//! the total of deleted readings, which no table has any more.

use chrono::{TimeDelta, Utc};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use service_core::prelude::*;
use tracing::info;

use crate::tables::{COMPLETED, reading};

/// Rows that one statement deletes: few, so that it does not block the table for long.
const CHUNK: u64 = 1000;

/// `[cleanup_service]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Days that a completed reading is kept, counted from when it was processed.
    keep_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keep_days: 7 }
    }
}

/// The service.
pub struct CleanupService {
    settings: Settings,
}

// Every hour, of several stations on one database in one. If all were down at that time, once when one starts again. If
// the one that runs it is killed, another one takes over after 10 s.
#[service(cron = "17 * * * *", catch_up = "latest", scope = "cluster", lease = 10)]
impl CleanupService {
    fn configure(_cx: &Context, settings: Settings) -> Self {
        Self { settings }
    }

    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let before = Utc::now() - TimeDelta::days(self.settings.keep_days.into());
        let tx = cx.begin().await?;
        let old: Vec<i64> = reading::Entity::find()
            .select_only()
            .column(reading::Column::Id)
            .filter(reading::Column::Status.eq(COMPLETED))
            .filter(reading::Column::UpdatedAt.lt(before))
            .limit(CHUNK)
            .into_tuple()
            .all(&tx)
            .await?;
        let deleted =
            reading::Entity::delete_many().filter(reading::Column::Id.is_in(old)).exec(&tx).await?.rows_affected;
        if deleted > 0 {
            // In the same commit, so that the total is right even if the process is killed.
            let total = cx.store().get_in::<u64>(&tx, "cleared").await?.unwrap_or_default() + deleted;
            cx.store().set_in(&tx, "cleared", &total).await?;
            tx.commit().await?;
            info!("deleted {deleted} readings processed before {}, {total} in total", before.format("%F %T"));
        }
        let outcome = Outcome::processed(deleted);
        Ok(if deleted == CHUNK { outcome.again() } else { outcome })
    }
}
