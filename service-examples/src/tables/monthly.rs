//! The figures of a month, updated with every day.

use sea_orm::entity::prelude::*;

/// A row of `monthly`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "monthly")]
pub struct Model {
    /// `2012-01`
    #[sea_orm(primary_key, auto_increment = false)]
    pub month: String,
    pub days: i32,
    pub rain_days: i32,
    pub precipitation: f64,
    pub temp_max_mean: f64,
    pub temp_min_mean: f64,
    pub temp_highest: f64,
    pub temp_lowest: f64,
    pub wind_mean: f64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
