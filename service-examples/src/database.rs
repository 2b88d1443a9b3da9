//! The station's database: opened once, with all tables, before a service starts.

use sea_orm::DatabaseConnection;
use service_core::prelude::*;
use tracing::info;

use crate::tables;

/// The database if `DATABASE_URL` is not set: a file in the working directory.
const FILE: &str = "station.db";

/// Opens the database and creates the tables that are missing.
pub async fn open() -> Result<DatabaseConnection> {
    let url = std::env::var("DATABASE_URL");
    match &url {
        // The URL may contain a password.
        Ok(_) => info!("figures go to the database of DATABASE_URL"),
        Err(_) => info!("figures go to {}", std::path::absolute(FILE)?.display()),
    }
    let url = url.unwrap_or_else(|_| format!("sqlite:{FILE}"));
    let db = service_core::database::connect(&url).await?;
    tables::create(&db).await?;
    Ok(db)
}
