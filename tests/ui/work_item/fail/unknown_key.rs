use sea_orm::entity::prelude::*;
use service_core::database::WorkItem;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
#[sea_orm(table_name = "reading")]
#[work_item(status = "status", max_atempts = 5)]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub status: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn main() {}
