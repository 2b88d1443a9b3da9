use service_core::database::WorkItem;

mod without_a_column {
    use sea_orm::entity::prelude::*;
    use super::WorkItem;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "reading")]
    #[work_item(status = "status", retain_completed = "30d")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub status: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod wrong_values {
    use sea_orm::entity::prelude::*;
    use super::WorkItem;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "reading")]
    #[work_item(status = "status", updated_at = "at", retain_completed = "a month")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub status: String,
        pub at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod zero {
    use sea_orm::entity::prelude::*;
    use super::WorkItem;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "reading")]
    #[work_item(status = "status", updated_at = "at", retain_completed = 0)]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub status: String,
        pub at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

fn main() {}
