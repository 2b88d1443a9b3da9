//! The figures of a day: the observation, and the values computed from it.

use sea_orm::entity::prelude::*;

/// A row of `daily`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "daily")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub date: Date,
    pub precipitation: f64,
    pub temp_max: f64,
    pub temp_min: f64,
    pub wind: f64,
    pub weather: String,
    pub temp_mean: f64,
    pub temp_range: f64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
