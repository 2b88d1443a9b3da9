//! Every file that was ever imported, identified by its content, so that no file is imported twice.

use sea_orm::entity::prelude::*;

/// A row of `imported_file`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "imported_file")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    /// SHA-256 of the content.
    #[sea_orm(unique)]
    pub hash: String,
    pub name: String,
    pub readings: i32,
    /// Lines whose reading already existed.
    pub known: i32,
    pub rejected: i32,
    pub imported_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
