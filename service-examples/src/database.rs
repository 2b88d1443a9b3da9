//! The station's database: opened once, with every table in place before a service starts.

use sea_orm::DatabaseConnection;
use service_core::prelude::*;

use crate::tables;

/// A file in the working directory, unless `DATABASE_URL` says otherwise.
const DEFAULT: &str = "sqlite:station.db";

/// Opens the database and creates what is missing in it.
pub async fn open() -> Result<DatabaseConnection> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| DEFAULT.to_owned());
    let db = service_core::database::connect(&url).await?;
    tables::create(&db).await?;
    Ok(db)
}
