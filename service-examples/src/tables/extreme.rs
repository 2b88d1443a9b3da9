//! A record that was broken. `digest_id` is NULL until a digest contains it.

use sea_orm::entity::prelude::*;

/// A row of `extreme`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "extreme")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub kind: String,
    pub date: Date,
    pub value: f64,
    pub former_date: Date,
    pub former_value: f64,
    #[sea_orm(indexed)]
    pub digest_id: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
