//! `station once`: processes all pending work and exits.
//!
//! The services are the same as for `run`. Each is run again and again until none of them finds work.

use std::time::Duration;

use chrono::Utc;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter};
use service_core::prelude::*;
use tracing::{error, info};

use crate::tables::{COMPLETED, FAILED, PENDING, delivery, reading, rejected_line};

/// In the order in which work passes through them. When a whole round finds no work, there is none.
const ORDER: [&str; 4] = ["importer", "data_processor", "email_sender", "cleanup_service"];

/// The wait before rows that another process has claimed are checked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Processes all pending work.
///
/// # Errors
/// A service failed, so some work may be left.
pub async fn process_all(services: &ServiceRegistry, db: &DatabaseConnection) -> Result<()> {
    let mut found_work = true;
    while found_work {
        found_work = false;
        for service in ORDER.iter().filter_map(|id| services.get(id)) {
            loop {
                let run = service.run_now().await?;
                if let Some(why) = run.error() {
                    error!("{}: {why:#}", service.id());
                }
                // Also a run of its own schedule, in between, may have failed.
                if service.health().error_count > 0 {
                    return Err(Error::msg(format!("{} failed, so some work may be left", service.id())));
                }
                found_work |= run.processed() > 0;
                if !run.again() {
                    break;
                }
            }
        }
        if !found_work && is_anything_due(db).await? {
            // Claimed by another process, or by one that was killed and whose claims will expire.
            tokio::time::sleep(PAUSE).await;
            found_work = true;
        }
    }
    let readings = |status| reading::Entity::find().filter(reading::Column::Status.eq(status)).count(db);
    let rejected = rejected_line::Entity::find().count(db).await?;
    let (completed, failed) = (readings(COMPLETED).await?, readings(FAILED).await?);
    info!("all work is done: {completed} readings completed, {failed} failed, {rejected} lines rejected");
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
