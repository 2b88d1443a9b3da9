//! The methods of [`Context`] for the database.

use std::borrow::Cow;
use std::sync::Arc;

use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::database::catch_up::{LastRun, mark_fire};
use crate::database::fence::Fence;
use crate::database::service_db::ServiceDb;
use crate::database::store::Store;
use crate::database::transaction::Transaction;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::work_item::WorkItem;
use crate::rfc3339;
use crate::runtime::context::{Context, Nominal};
use crate::schedule::CronSchedule;
use crate::service::error::{Error, Result};

impl Context {
    /// Returns the connection pool of the registry's database. With `scope = "cluster"`, writes through this pool are
    /// not refused after the lease is lost: write through [`begin`](Self::begin) instead.
    ///
    /// # Errors
    /// The registry has none; the error is fatal and says what to add.
    pub fn db(&self) -> Result<&DatabaseConnection> {
        Ok(self.service_db()?.db())
    }

    /// Begins a transaction. With `scope = "cluster"`, its commit is refused when this replica has lost the lease of
    /// the service. On SQLite it begins `IMMEDIATE`, so it waits for other writers, up to a minute. `commit()` makes
    /// its writes permanent, and dropping it rolls it back. A timeout or a stop waits for a commit in progress, up to 5
    /// s. If the future is dropped, no transaction stays open.
    ///
    /// # Errors
    /// The registry has no database, or the database is down. SQLite's write lock was not free within 60 s (5 s if a
    /// batch of this service holds it). No connection of the pool was free within its `acquire_timeout` (10 s by
    /// default). With `scope = "cluster"`, this replica has lost the lease.
    ///
    /// ```
    /// use sea_orm::ConnectionTrait;
    /// use service_core::prelude::*;
    ///
    /// async fn update(cx: &Context) -> Result<()> {
    ///     let tx = cx.begin().await?;
    ///     tx.execute_unprepared("INSERT INTO visit (n) VALUES (1)").await?;
    ///     tx.commit().await
    /// }
    /// ```
    pub async fn begin(&self) -> Result<Transaction> {
        self.fenced_db()?.begin().await
    }

    /// Claims up to `n` pending rows of `E` that are due; no other worker gets them. Half of them are rows without a
    /// time, half are rows whose time has come. Call [`for_each`](crate::database::Claim::for_each), which also
    /// commits, or await the claim for a [`Batch`](crate::database::Batch), whose `commit` commits all of them
    /// together. If the run ends without it, the rows stay as they were, except that the row in flight loses an
    /// attempt. Dropping the claim before it is awaited claims nothing.
    ///
    /// # Errors
    /// When awaited: the registry has no database, or the database is down. On SQLite, the write lock was not free
    /// within 60 s. The rows cannot be read as `E`: a column has another type, or a key does not find its row. More
    /// than 200 rows of the table are left out of claims.
    ///
    /// ```
    /// # mod order {
    /// #     use sea_orm::entity::prelude::*;
    /// #     #[derive(Clone, Debug, PartialEq, DeriveEntityModel, service_core::WorkItem)]
    /// #     #[sea_orm(table_name = "shop_order")]
    /// #     #[work_item(status = "status")]
    /// #     pub struct Model { #[sea_orm(primary_key)] pub id: i64, pub status: String }
    /// #     #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    /// #     pub enum Relation {}
    /// #     impl ActiveModelBehavior for ActiveModel {}
    /// # }
    /// use service_core::prelude::*;
    ///
    /// async fn update(cx: &Context) -> Result<Outcome> {
    ///     cx.claim::<order::Entity>(100).for_each(async |item| println!("{}", item.model().id)).await
    /// }
    /// ```
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(as_ref(&self.fenced_db()), n).in_run(self)
    }

    /// Claims rows as [`claim`](Self::claim) does, for work that is slow or has effects outside the database: each row
    /// commits by itself, and no transaction is open while your code runs. If the future is dropped while it claims,
    /// the claims are released when the run ends, or soon after if it goes on.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim).
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(as_ref(&self.fenced_db()), n).in_run(self)
    }

    /// Returns the store of this service: small typed values that are kept across restarts.
    ///
    /// # Errors
    /// When used: the registry has no database, or the database is down.
    pub fn store(&self) -> Store {
        Store::new(as_ref(&self.fenced_db()))
    }

    /// Records that this run serves its cron fire, in your own transaction: the fire is served if, and only if, the
    /// transaction commits. So each fire takes effect exactly once in the database, whatever happens to the process.
    /// Without this, a fire is recorded after its run, and run again if the process is killed in between.
    ///
    /// Call it once in a run, and return `Ok` after the commit. A run that fails is retried for the same fire. If the
    /// failed run had already committed, even if the answer to the commit was lost, this method returns an error in
    /// each retry, until the run is given up.
    ///
    /// The clocks of the processes must not differ by more than 3 h: otherwise a fire can be served twice.
    ///
    /// Does nothing in these runs: a run that was woken or requested; a run of a service without a cron schedule; a run
    /// that follows [`again()`](crate::Outcome::again), because its fire is recorded already. Needs `catch_up`, which
    /// is `latest` with `scope = "cluster"`.
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// async fn update(cx: &Context) -> Result<()> {
    ///     let tx = cx.begin().await?;
    ///     // … the writes of this fire, through `&tx` …
    ///     cx.mark_served_in(&tx).await?;
    ///     tx.commit().await
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of the database; a transaction that has served this fire has committed before; or the service has a cron
    /// schedule without `catch_up`.
    pub async fn mark_served_in(&self, tx: &impl ConnectionTrait) -> Result<()> {
        let Nominal::Fire(fire) = self.nominal else { return Ok(()) };
        let schedule = {
            let state = self.service.lock();
            state.requests.options.schedule.caught_up().map(CronSchedule::text)
        };
        let Some(schedule) = schedule else {
            return Err(Error::fatal(format!(
                "service `{}` records no fires: set `catch_up` to `latest` or `all`, or remove `mark_served_in`",
                self.service_id()
            )));
        };
        let last = LastRun { run: None, fire: Some(fire.into()), schedule: Some(schedule) };
        if mark_fire(tx, self.service_id(), &last, self.now().into()).await? {
            return Ok(());
        }
        Err(Error::msg(format!(
            "service `{}` has served the fire of {} before, so nothing is written again: commit last in the run, and call \
             `mark_served_in` once",
            self.service_id(),
            rfc3339::seconds(fire)
        )))
    }

    /// The registry's database for writes: with `scope = "cluster"`, commits are refused when the lease of this context
    /// is lost.
    fn fenced_db(&self) -> Result<Cow<'_, ServiceDb>> {
        let db = self.service_db()?;
        let Some((epoch, lease)) = self.epoch.zip(self.service.lease.clone()) else { return Ok(Cow::Borrowed(db)) };
        let mut db = db.clone();
        db.tx.fence = Some(Arc::new(Fence::new(self.service.id.clone(), epoch, lease)));
        Ok(Cow::Owned(db))
    }

    /// The registry's database, as this service uses it.
    fn service_db(&self) -> Result<&ServiceDb> {
        let db = ServiceDb::of(&self.service).ok_or_else(|| {
            Error::fatal(format!(
                "service `{}` needs a database, but the registry has none; \
                 add `.database(db)` or `.database_url(\"…\")` to the builder",
                self.service_id()
            ))
        })?;
        db.mark_used();
        if let Some(monitor) = &db.tx.monitor {
            monitor.check()?;
        }
        Ok(db)
    }
}

fn as_ref<'a>(db: &'a Result<Cow<'_, ServiceDb>>) -> Result<&'a ServiceDb> {
    match db {
        Ok(db) => Ok(db),
        Err(error) => Err(error.clone()),
    }
}
