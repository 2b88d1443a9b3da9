use sea_orm::entity::prelude::*;
use service_core::database::WorkItem;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
#[sea_orm(table_name = "reading")]
#[work_item(status = "status", error = "error_code", attempts = "attempts", available_at = "due")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub status: i32,
    pub error_code: i32,
    pub attempts: String,
    pub due: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn main() {}
