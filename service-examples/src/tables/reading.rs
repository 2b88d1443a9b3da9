//! The observation of one day, as it was imported: work for `data_processor`.

use sea_orm::entity::prelude::*;
use service_core::database::WorkItem;

use crate::line::Observation;

/// A row of `reading`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
#[sea_orm(table_name = "reading")]
#[work_item(
    status = "status",
    error = "error_message",
    attempts = "attempts",
    max_attempts = 5,
    updated_at = "updated_at"
)]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub file_id: i64,
    pub file: String,
    pub line: i32,
    #[sea_orm(indexed)]
    pub date: Date,
    /// mm
    pub precipitation: f64,
    /// °C
    pub temp_max: f64,
    /// °C
    pub temp_min: f64,
    /// m/s
    pub wind: f64,
    pub weather: String,
    pub status: String,
    pub error_message: Option<String>,
    pub attempts: i32,
    pub updated_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// Returns the observation, without its source and its status.
    pub fn observation(&self) -> Observation {
        Observation {
            date: self.date,
            precipitation: self.precipitation,
            temp_max: self.temp_max,
            temp_min: self.temp_min,
            wind: self.wind,
            weather: self.weather.clone(),
        }
    }
}
