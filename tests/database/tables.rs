//! The tables of the suite.

use chrono::Utc;
use sea_orm::{ActiveValue::Set, ConnectionTrait, DatabaseConnection, EntityTrait, Schema, Statement};
use service_core::__private::database::WallClock;

/// Every column that a work item can have.
pub(crate) mod job {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "job")]
    #[work_item(
        status = "status",
        error = "error_message",
        attempts = "attempts",
        max_attempts = 3,
        available_at = "due",
        updated_at = "updated_at"
    )]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) payload: String,
        pub(crate) status: String,
        pub(crate) error_message: Option<String>,
        pub(crate) attempts: i32,
        pub(crate) due: Option<DateTimeUtc>,
        pub(crate) updated_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Only a status, as an enum, and a key of two columns.
pub(crate) mod plain {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "Enum", enum_name = "plain_status")]
    pub(crate) enum Status {
        #[sea_orm(string_value = "pending")]
        Pending,
        #[sea_orm(string_value = "completed")]
        Completed,
        #[sea_orm(string_value = "failed")]
        Failed,
    }

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "plain")]
    #[work_item(status = "state")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) station: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) day: i32,
        pub(crate) state: Status,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The newer way to write a model, and a UUID for a key.
pub(crate) mod ticket {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "ticket")]
    #[work_item(status = "status", error = "error")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) id: Uuid,
        pub(crate) status: String,
        #[sea_orm(column_type = "String(StringLen::N(40))")]
        pub(crate) error: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Attempts that are counted in a larger type.
pub(crate) mod tried {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "tried")]
    #[work_item(status = "status", attempts = "attempts", max_attempts = 3)]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) attempts: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The effects. There is no unique key, so that a repetition is visible.
const EFFECT: &str = "CREATE TABLE effect (job BIGINT NOT NULL)";

pub(crate) async fn create<E: EntityTrait>(db: &DatabaseConnection, entity: E) {
    let schema = Schema::new(db.get_database_backend());
    for statement in schema.create_enum_from_entity(entity) {
        db.execute(&statement).await.unwrap();
    }
    db.execute(&schema.create_table_from_entity(entity)).await.unwrap();
}

/// Creates the table of jobs, with `count` pending ones, from 1.
pub(crate) async fn jobs(db: &DatabaseConnection, count: i64) {
    create(db, job::Entity).await;
    db.execute_unprepared(EFFECT).await.unwrap();
    more_jobs(db, 1..=count).await;
}

pub(crate) async fn more_jobs(db: &DatabaseConnection, ids: std::ops::RangeInclusive<i64>) {
    let ids: Vec<i64> = ids.collect();
    for ids in ids.chunks(1000) {
        let rows = ids.iter().map(|id| job::ActiveModel {
            id: Set(*id),
            payload: Set(format!("job {id}")),
            status: Set("pending".into()),
            error_message: Set(None),
            attempts: Set(0),
            due: Set(None),
            updated_at: Set(WallClock::new(Utc::now).now()),
        });
        job::Entity::insert_many(rows).exec_without_returning(db).await.unwrap();
    }
}

/// The effect of a job.
pub(crate) async fn effect(tx: &impl ConnectionTrait, job: i64) -> Result<(), sea_orm::DbErr> {
    tx.execute_raw(Statement::from_sql_and_values(
        tx.get_database_backend(),
        if tx.get_database_backend() == sea_orm::DbBackend::Postgres {
            "INSERT INTO effect (job) VALUES ($1)"
        } else {
            "INSERT INTO effect (job) VALUES (?)"
        },
        [job.into()],
    ))
    .await
    .map(drop)
}

/// The effects so far, in order.
pub(crate) async fn effects(db: &DatabaseConnection) -> Vec<i64> {
    let select = Statement::from_string(db.get_database_backend(), "SELECT job FROM effect ORDER BY job");
    db.query_all_raw(select).await.unwrap().iter().map(|row| row.try_get("", "job").unwrap()).collect()
}

/// Reads a job.
pub(crate) async fn job(db: &DatabaseConnection, id: i64) -> job::Model {
    job::Entity::find_by_id(id).one(db).await.unwrap().unwrap()
}

/// Reads the statuses of the jobs, in the order of their ids.
pub(crate) async fn statuses(db: &DatabaseConnection) -> Vec<String> {
    use sea_orm::{QueryOrder, QuerySelect};
    job::Entity::find()
        .select_only()
        .column(job::Column::Status)
        .order_by_asc(job::Column::Id)
        .into_tuple()
        .all(db)
        .await
        .unwrap()
}
