//! The most extreme value of each kind so far.

use sea_orm::entity::prelude::*;

/// A row of `record`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "record")]
pub struct Model {
    /// `hottest`, `coldest`, `wettest` or `windiest`
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    pub date: Date,
    pub value: f64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
