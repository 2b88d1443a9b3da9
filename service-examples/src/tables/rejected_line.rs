//! Lines that are not readings, byte for byte, with the reason.

use sea_orm::entity::prelude::*;

/// A row of `rejected_line`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "rejected_line")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub file_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub line: i32,
    #[sea_orm(column_type = "Blob")]
    pub content: Vec<u8>,
    pub reason: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
