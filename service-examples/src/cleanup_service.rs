//! `cleanup_service`: clears away readings that were worked off more than a week ago. Their figures stay, and so does the number
//! of all that were ever cleared away, which is in no other table any more.

use chrono::{TimeDelta, Utc};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use service_core::prelude::*;
use tracing::info;

use crate::tables::{COMPLETED, reading};

/// Rows a statement deletes: few enough that nobody waits long for the table.
const CHUNK: u64 = 1000;

/// `[cleanup_service]` in `services.toml`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Days that a completed reading is kept, counted from when it was worked off.
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

// Every hour; where the station was down over it, once when it is back.
#[service(cron = "17 * * * *", catch_up = "latest")]
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
            // In the same commit: killed at any moment, it counts what is gone and nothing else.
            let in_all = cx.store().get_in::<u64>(&tx, "cleared").await?.unwrap_or_default() + deleted;
            cx.store().set_in(&tx, "cleared", &in_all).await?;
            tx.commit().await?;
            info!("{deleted} readings worked off before {} are cleared away, {in_all} so far", before.format("%F %T"));
        }
        let outcome = Outcome::processed(deleted);
        Ok(if deleted == CHUNK { outcome.again() } else { outcome })
    }
}
