#![deny(warnings, missing_docs)]
#![forbid(unsafe_code)]
//! Every form of model that can be work.

/// Both crates' preludes side by side.
pub mod preludes {
    use sea_orm::entity::prelude::*;
    use service_core::database::*;

    /// A row.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "reading")]
    #[work_item(status = "status", error = "error_message", attempts = "attempts", max_attempts = 5)]
    #[work_item(available_at = "due", updated_at = "updated_at", retain_completed = "1d 12h")]
    pub struct Model {
        /// The key.
        #[sea_orm(primary_key)]
        pub id: i64,
        /// Where it stands.
        pub status: String,
        /// Why it failed.
        #[sea_orm(column_type = "Text", nullable)]
        pub error_message: Option<String>,
        /// How often it was tried.
        pub attempts: i16,
        /// Not before.
        pub due: Option<DateTimeWithTimeZone>,
        /// When it changed.
        pub updated_at: DateTime,
    }

    /// None.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The newer form, with a relation, a raw identifier, and names of its own for table and variant.
#[allow(missing_docs, reason = "sea-orm's own code has none")]
pub mod newer {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "String(StringLen::None)", rename_all = "snake_case")]
    pub enum State {
        Pending,
        Completed,
        Failed,
        OnHold,
    }

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, service_core::database::WorkItem)]
    #[sea_orm(table_name = "ticket")]
    #[work_item(status = "type", error = "the_error", available_at = "millis")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub station: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub day: i32,
        pub r#type: State,
        #[sea_orm(column_name = "the_error")]
        pub message: String,
        #[sea_orm(enum_name = "DueMillis")]
        pub millis: ChronoUnixTimestampMillis,
        #[sea_orm(ignore)]
        pub scratch: Option<i32>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The contract's loop, spawned.
pub async fn run(cx: service_core::Context) -> service_core::Result<service_core::Outcome> {
    let running = tokio::spawn(async move {
        let mut batch = cx.claim::<preludes::Entity>(100).await?;
        while let Some(item) = batch.next().await? {
            let done = process(item.model(), item.tx()).await;
            item.settle(done).await?;
        }
        batch.commit().await
    });
    running.await?
}

async fn process(
    row: &preludes::Model,
    tx: &impl sea_orm::ConnectionTrait,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tx.execute_unprepared(&format!("INSERT INTO effect VALUES ({})", row.id)).await?;
    Ok(())
}

/// The form without the loop, in services whose futures have to be `Send`.
pub mod without_a_loop {
    use service_core::database::Item;
    use service_core::prelude::*;

    use super::{preludes, process};

    /// What a generic service is generic over.
    pub trait Mailer: Send + Sync + 'static {
        /// Sends one mail.
        fn send(&self, id: i64) -> impl Future<Output = std::io::Result<()>> + Send;
    }

    /// A service.
    #[derive(Default)]
    pub struct Sender<M> {
        mailer: M,
        attempts: u64,
    }

    #[service(interval = 5, discover = false)]
    impl<M: Mailer> Sender<M> {
        async fn update(&mut self, cx: &Context) -> Result<Outcome> {
            let claim = cx.claim::<preludes::Entity>(100);
            let first = claim.for_each(async |item| process(item.model(), item.tx()).await).await?;
            let claim = cx.claim_each::<preludes::Entity>(100);
            let second = claim.for_each(async |item| self.mailer.send(item.model().id).await).await?;
            let claim = cx.claim::<preludes::Entity>(100);
            let third = claim.for_each_with(&mut *self, async |this, item| this.send(item).await).await?;
            let fourth = cx.claim_each::<preludes::Entity>(100).for_each_with(self, Self::send).await?;
            let all = [first, second, third, fourth];
            Ok(Outcome::processed(all.iter().map(Outcome::items_processed).sum()))
        }
    }

    impl<M: Mailer> Sender<M> {
        async fn send(&mut self, item: &Item<preludes::Entity>) -> Result<()> {
            self.attempts += item.attempt();
            self.mailer.send(item.model().id).await?;
            Ok(())
        }
    }

    /// The future may be spawned.
    pub fn spawned(cx: Context) {
        tokio::spawn(async move {
            let mut count = 0;
            let claim = cx.claim::<preludes::Entity>(100);
            let counted = claim.for_each_with(&mut count, async |count, item| {
                *count += 1;
                process(item.model(), item.tx()).await
            });
            counted.await
        });
    }
}

#[test]
fn it_compiles() {
    let _ = (run, without_a_loop::spawned);
}

#[test]
fn the_retention_is_a_time_or_none() {
    use service_core::__private::database::WorkItem;

    let retention = |hours: u64| Some(std::time::Duration::from_secs(hours * 3600));
    assert_eq!(preludes::Entity::__work().retain_completed, retention(36));
    assert_eq!(newer::Entity::__work().retain_completed, None);
}
