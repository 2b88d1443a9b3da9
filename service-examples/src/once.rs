//! `station once`: works off everything there is, and ends.
//!
//! The services are the same as ever, each asked for a run until none of them finds anything to do.

use std::time::Duration;

use chrono::Utc;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter};
use service_core::prelude::*;
use tracing::{error, info};

use crate::tables::{COMPLETED, FAILED, PENDING, delivery, reading, rejected_line};

/// In the order in which work passes through them: when a whole round finds nothing, there is nothing.
const ORDER: [&str; 4] = ["importer", "data_processor", "email_sender", "cleanup_service"];

/// Between two looks at rows that somebody else has claimed.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives an error when a service failed: then something may be left.
pub async fn work_off(services: &ServiceRegistry, db: &DatabaseConnection) -> Result<()> {
    let mut worked = true;
    while worked {
        worked = false;
        for service in ORDER.iter().filter_map(|id| services.get(id)) {
            loop {
                let run = service.run_now().await?;
                if let Some(why) = run.error() {
                    error!("{}: {why:#}", service.id());
                    return Err(Error::msg(format!("{} failed, so something may be left to do", service.id())));
                }
                worked |= run.processed() > 0;
                if !run.again() {
                    break;
                }
            }
        }
        if !worked && is_anything_due(db).await? {
            // Claimed by another process, or by one that was killed: its claims run out.
            tokio::time::sleep(PAUSE).await;
            worked = true;
        }
    }
    let readings = |status| reading::Entity::find().filter(reading::Column::Status.eq(status)).count(db);
    let rejected = rejected_line::Entity::find().count(db).await?;
    let (completed, failed) = (readings(COMPLETED).await?, readings(FAILED).await?);
    info!("all is worked off: {completed} readings completed, {failed} failed, {rejected} lines rejected");
    Ok(())
}

async fn is_anything_due(db: &DatabaseConnection) -> Result<bool> {
    let now = Utc::now();
    let deliveries = delivery::Entity::find()
        .filter(delivery::Column::Status.eq(PENDING))
        .filter(delivery::Column::Due.is_null().or(delivery::Column::Due.lte(now)));
    let readings = reading::Entity::find().filter(reading::Column::Status.eq(PENDING));
    Ok(deliveries.count(db).await? + readings.count(db).await? > 0)
}
