//! One digest to one recipient: work for `email_sender`.

use sea_orm::entity::prelude::*;
use service_core::database::WorkItem;

/// A row of `delivery`.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
#[sea_orm(table_name = "delivery")]
#[work_item(
    status = "status",
    error = "error_message",
    attempts = "attempts",
    max_attempts = 5,
    available_at = "due",
    updated_at = "updated_at"
)]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub digest_id: i64,
    pub recipient: String,
    pub status: String,
    pub error_message: Option<String>,
    pub attempts: i32,
    pub due: Option<DateTimeUtc>,
    pub updated_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
