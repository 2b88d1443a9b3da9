//! [`Request`]: a claim's statements, for rows that commit together and for rows that commit one by one.
//!
//! The tricky part: one row more than asked for is read, to know without another question whether there is more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Condition, IntoValueTuple, LockBehavior, LockType, SelectStatement, ValueTuple};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable, ModelTrait, Order,
    PrimaryKeyToColumn, PrimaryKeyTrait, QueryResult, QuerySelect, QueryTrait, TryGetableMany,
};

use crate::database::error_kind as fault;
use crate::database::service_db::Access;
use crate::database::transaction::Transaction;
use crate::database::work::batch::Batch;
use crate::database::work::index;
use crate::database::work::lease::{self, Lease, Standing};
use crate::database::work::settlement::Row;
use crate::database::work::sql::{self as plan, Backoff, Part, Plan, Verdict, key_text};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request<E: EntityTrait> {
    pub(crate) access: Access,
    pub(crate) wanted: u64,
    pub(crate) filter: Condition,
    pub(crate) order: Vec<(E::Column, Order)>,
    pub(crate) backoff: Backoff,
    /// For rows that commit one by one.
    pub(crate) lease: Duration,
}

/// A claimed row, and its model.
#[derive(Debug)]
pub(crate) struct Claimed<E: EntityTrait> {
    pub(crate) row: Row,
    pub(crate) model: E::Model,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot claim rows of `{table}`")]
pub(crate) struct Claiming {
    pub(crate) table: String,
    pub(crate) source: DbErr,
}

impl<E: WorkItem> Request<E> {
    fn plan(&self) -> Arc<Plan> {
        Plan::of::<E>(self.access.db.get_database_backend(), self.backoff)
    }

    /// The rows that are due, oldest first, at most so many.
    async fn read_due(
        &self,
        db: &impl ConnectionTrait,
        now: DateTime<Utc>,
        limit: u64,
    ) -> std::result::Result<Vec<QueryResult>, DbErr> {
        let parts = plan::parts::<E>(&self.order);
        if self.access.db.get_database_backend() == DbBackend::Postgres {
            let parts = parts.iter().map(|part| self.due(now, *part, limit));
            return db.query_all(&plan::one_after_another(parts, limit)).await;
        }
        let mut rows = Vec::new();
        for part in parts {
            let left = limit.saturating_sub(rows.len() as u64);
            if left > 0 {
                rows.append(&mut db.query_all(&self.due(now, *part, left)).await?);
            }
        }
        Ok(rows)
    }

    fn due(&self, now: DateTime<Utc>, part: Part, limit: u64) -> SelectStatement {
        let backend = self.access.db.get_database_backend();
        let select = match backend {
            // Asked for whole rows and few of them, SQLite would rather read and sort the table than follow the index.
            DbBackend::Sqlite => plan::of_keys::<E>(backend, self.due_keys(now, part, limit), &self.order),
            _ => plan::due::<E>(backend, &self.filter, &self.order, now, part).limit(limit),
        };
        select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).into_query()
    }

    /// The keys alone: the index of the claim has them, so it is all that is read.
    fn due_keys(&self, now: DateTime<Utc>, part: Part, limit: u64) -> SelectStatement {
        let backend = self.access.db.get_database_backend();
        let due = plan::due::<E>(backend, &self.filter, &self.order, now, part).limit(limit);
        due.select_only().columns(E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column)).into_query()
    }

    pub(crate) async fn together(self) -> Result<Batch<E>> {
        let plan = self.plan();
        let failed = |source| Error::new(Claiming { table: plan.name.clone(), source });
        index::look_at::<E>(&self.access).await?;
        self.access.debts.pay(&self.access, None).await?;
        let wanted = self.access.debts.batch_size(&plan, self.wanted);
        let tx = Transaction::lazy(&self.access);
        let mut batch = Batch::new(self.access.clone(), Arc::clone(&plan), tx, None);
        // An idle poll shall not ask for SQLite's write lock.
        let looks = plan.backend == DbBackend::Sqlite && !self.access.debts.more_is_expected(&plan);
        if wanted == 0 || looks && !self.has_work().await.map_err(failed)? {
            return Ok(batch);
        }
        batch.tx().raw().await.map_err(failed)?;
        batch.hold();
        let tx = batch.tx().raw().await.map_err(failed)?;
        let rows = self.read_due(tx, self.access.clock.now(), wanted.saturating_add(1)).await.map_err(failed)?;
        if rows.is_empty() {
            batch.give_up().await?;
            return Ok(batch);
        }
        batch.take(rows, wanted).await.map_err(failed)?;
        Ok(batch)
    }

    async fn has_work(&self) -> std::result::Result<bool, DbErr> {
        let now = self.access.clock.now();
        for part in plan::parts::<E>(&self.order) {
            if self.access.db.query_one(&self.due_keys(now, *part, 1)).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn each(self) -> Result<Batch<E>> {
        let plan = self.plan();
        let failed = |source| Error::new(Claiming { table: plan.name.clone(), source });
        self.access.tables.ensure(&self.access.db).await?;
        index::look_at::<E>(&self.access).await?;
        self.access.debts.pay(&self.access, None).await?;
        if self.access.debts.first_time(format!("swept {}", plan.name)) {
            let tx = self.access.begin().await?;
            tx.execute(&lease::sweep(&plan.name, self.access.clock.now())).await.map_err(failed)?;
            tx.commit().await?;
        }
        let wanted = self.access.debts.batch_size(&plan, self.wanted);
        let mut batch = Batch::new(self.access.clone(), Arc::clone(&plan), Transaction::lazy(&self.access), None);
        if wanted == 0 || !self.has_work().await.map_err(failed)? {
            return Ok(batch);
        }
        let owner = lease::new_owner(&self.access.service_id);
        let mut patience = 5;
        let claimed = loop {
            match self.claim_each(&plan, &owner, wanted).await {
                Err(error) if error.find::<DbErr>().is_some_and(fault::is_deadlock) && patience > 0 => patience -= 1,
                claimed => break claimed?,
            }
        };
        if !claimed.rows.is_empty() {
            batch.keep(Lease::keep(&self.access, &plan.name, owner, self.lease));
            batch.take(claimed.rows, wanted).await.map_err(failed)?;
        }
        batch.note(claimed.charged, claimed.more);
        Ok(batch)
    }

    /// Claims rows in `service_claim`, in one short transaction.
    async fn claim_each(&self, plan: &Plan, owner: &str, wanted: u64) -> Result<ClaimedEach> {
        let failed = |source| Error::new(Claiming { table: plan.name.clone(), source });
        let transaction = Transaction::lazy(&self.access);
        let tx = transaction.raw().await.map_err(failed)?;
        let now = self.access.clock.now();
        let standing = tx.query_all(&lease::standing(&plan.name)).await.map_err(failed)?;
        let standing = standing.iter().map(Standing::read).collect::<std::result::Result<Vec<_>, _>>();
        let mut standing = standing.map_err(failed)?;
        let deaths = lease::bury(&plan.name, &mut standing, now);
        for death in &deaths {
            tx.execute(death).await.map_err(failed)?;
        }
        let held: HashSet<&str> = standing.iter().filter(|c| c.is_held(now)).map(|claim| &*claim.key).collect();
        // Looked up for every row, and the table may have as many claims: no list.
        let suspects = standing.iter().filter(|claim| claim.crashes > 0);
        let suspects: HashMap<&str, i64> = suspects.map(|claim| (&*claim.key, claim.crashes)).collect();
        let reach = wanted.saturating_add(held.len() as u64).saturating_add(1);
        let mut free: Vec<(String, QueryResult)> = Vec::new();
        for row in self.read_due(tx, now, reach).await.map_err(failed)? {
            match key_of::<E>(&row).map(|key| key_text(&key)) {
                Ok(key) if held.contains(&*key) => {}
                Ok(key) => free.push((key, row)),
                Err(error) => report_unreadable_key(&self.access, plan, &error),
            }
        }
        let mut claimed = ClaimedEach { rows: Vec::new(), charged: 0, more: free.len() as u64 > wanted };
        free.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        if free.is_empty() {
            transaction.commit().await?;
            return Ok(claimed);
        }
        // What may kill the process again shall not keep it from the others.
        free.sort_by_key(|(key, _)| suspects.contains_key(&**key));
        let keys: Vec<&str> = free.iter().map(|(key, _)| &**key).collect();
        let mut ours: HashSet<String> = HashSet::new();
        for claim in lease::claim(&plan.name, &keys, &self.access.service_id, owner, now, self.lease) {
            ours.extend(names(tx.query_all(&claim).await).map_err(failed)?);
        }
        for (key, row) in free.into_iter().filter(|(key, _)| ours.contains(key)) {
            let crashes = suspects.get(&*key).copied().unwrap_or(0);
            match read::<E>(&row) {
                Ok(Claimed { row, .. }) if crashes > lease::INNOCENT_CRASHES => {
                    self.charge_death(plan, &transaction, &row, owner, now).await.map_err(failed)?;
                    claimed.charged += 1;
                }
                _ => claimed.rows.push(row),
            }
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Processes died over this row, again and again: that costs it an attempt.
    async fn charge_death(
        &self,
        plan: &Plan,
        tx: &Transaction,
        row: &Row,
        owner: &str,
        now: DateTime<Utc>,
    ) -> std::result::Result<(), DbErr> {
        let (table, key, attempt) = (&plan.name, key_text(&row.key), row.attempts + 1);
        let verdict = plan.verdict(row.attempts, None, now);
        let message = format!(
            "the process died, or lost its claim, while it worked on this row, more than {} times",
            lease::INNOCENT_CRASHES
        );
        tracing::warn!(service.id = &*self.access.service_id, table, key, attempt, "{message}");
        let write = |message| plan.fail(&row.key, row.attempts, verdict, message, now);
        if tx.try_out(&write(Some(&message))).await.is_err() {
            // The message may be what the column refuses.
            tx.try_out(&write(None)).await?;
        }
        match verdict {
            Verdict::Failed => tx.raw().await?.execute(&lease::release(table, &key, owner)).await?,
            Verdict::Again(_) => tx.raw().await?.execute(&lease::charged(table, &key, owner, now)).await?,
        };
        Ok(())
    }
}

/// What was claimed to commit one by one.
struct ClaimedEach {
    rows: Vec<QueryResult>,
    /// Rows that are not lent this time: they were charged for the deaths of processes.
    charged: u64,
    more: bool,
}

fn names(rows: std::result::Result<Vec<QueryResult>, DbErr>) -> std::result::Result<HashSet<String>, DbErr> {
    rows?.iter().map(|row| row.try_get("", "row_key")).collect()
}

/// Once a table.
pub(crate) fn report_unreadable_key(access: &Access, plan: &Plan, error: &DbErr) {
    if access.debts.first_time(format!("unreadable key in {}", plan.name)) {
        let (service_id, table) = (&*access.service_id, &plan.name);
        tracing::warn!(service.id = service_id, table, %error, "a row cannot be read, not even its key; it is passed over");
    }
}

/// The key of a row, which need not be readable otherwise.
pub(crate) fn key_of<E: EntityTrait>(row: &QueryResult) -> std::result::Result<ValueTuple, DbErr> {
    let columns: Vec<String> = E::PrimaryKey::iter().map(|key| key.into_column().as_str().to_owned()).collect();
    let key = <E::PrimaryKey as PrimaryKeyTrait>::ValueType::try_get_many(row, "", &columns).map_err(DbErr::from)?;
    Ok(key.into_value_tuple())
}

/// The row as its model.
pub(crate) fn read<E: WorkItem>(row: &QueryResult) -> std::result::Result<Claimed<E>, DbErr> {
    let model = E::Model::from_query_result(row, "")?;
    let attempts = E::__work().attempts.and_then(|column| plan::as_integer(&model.get(column))).unwrap_or(0);
    Ok(Claimed { row: Row { key: model.get_primary_key_value(), attempts }, model })
}

pub(crate) type Rows<E> = VecDeque<Claimed<E>>;

#[cfg(all(test, feature = "sqlite"))]
mod tests;
