use sea_orm::entity::prelude::*;
use service_core::database::WorkItem;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
#[sea_orm(table_name = "reading")]
#[work_item(status = "status")]
pub struct Model {
    pub id: i64,
    pub status: String,
}

fn main() {}
