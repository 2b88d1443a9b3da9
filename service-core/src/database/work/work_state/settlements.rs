//! What an ended run has left to be written.
//!
//! A run that ends by `?`, a panic or its timeout drops its batch, and a drop cannot wait for the database. The batch
//! therefore records a [`Settlement`] here: the row in flight and the claims that were held. It is written when the run
//! has ended, and otherwise before the next claim (`settlement.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Charge, EndedBatch, Settlement, WorkState};
use crate::database::error_kind::ErrorKind;
use crate::database::work::left_out::LeftOut;
use crate::database::work::sql::TableSql;

impl WorkState {
    /// Whether an ended run left rows or claims to settle.
    pub(crate) fn has_unsettled(&self) -> bool {
        !self.settlements.lock().is_empty()
    }

    /// Records a batch of rows that commit together, which ended without a commit.
    pub(crate) fn defer(&self, ended: EndedBatch<'_>) {
        let charges = match (&ended.row, ended.cause) {
            (_, Some(ErrorKind::ConnectionLost | ErrorKind::PoolTimeout))
            | (None, Some(ErrorKind::Unavailable | ErrorKind::Contention | ErrorKind::StaleStatement)) => {
                self.lost_batch(&ended)
            }
            (_, None | Some(ErrorKind::Statement)) if ended.has_ended && ended.claimed > 1 => {
                self.claim_one_by_one(ended.table, ended.claimed);
                false
            }
            (Some(row), cause) => self.count_loss(ended.table, row, cause),
            (None, _) => false,
        };
        let EndedBatch { table, row, began, cause, failure, .. } = ended;
        if let Some(row) = row.filter(|_| charges || failure.is_some()) {
            self.push(table, vec![Charge { row, began, cause, failure }], None, 0);
        }
    }

    /// Records a leased batch that ended: these rows lose an attempt, and then the claims are released.
    pub(crate) fn defer_claims(&self, table: &Arc<TableSql>, owner: String, charges: Vec<Charge>) {
        self.push(table, charges, Some(owner), 0);
    }

    /// Records a batch of rows that commit together, which was dropped after items had been settled. That is a mistake
    /// if the run succeeds.
    pub(crate) fn drop_uncommitted(&self, table: &Arc<TableSql>, settled: u64) {
        self.push(table, Vec::new(), None, settled);
    }

    fn push(&self, table: &Arc<TableSql>, charges: Vec<Charge>, owner: Option<String>, uncommitted: u64) {
        let (id, table) = (self.next_id.fetch_add(1, Ordering::Relaxed), Arc::clone(table));
        let settlement = Settlement { id, ended: Instant::now(), table, charges, owner, uncommitted, error: None };
        self.settlements.lock().push(settlement);
    }

    /// The settlement of this owner's claims, if it is not written yet.
    pub(crate) fn unsettled(&self, owner: &str) -> Option<Settlement> {
        let settlements = self.settlements.lock();
        settlements.iter().find(|settlement| settlement.owner.as_deref() == Some(owner)).cloned()
    }

    /// The settlements that are not written yet. `error` becomes the message of those that have none.
    pub(crate) fn pending(&self, error: Option<&str>) -> Vec<Settlement> {
        let mut pending = self.settlements.lock();
        for settlement in pending.iter_mut() {
            settlement.error = settlement.error.take().or_else(|| error.map(str::to_owned));
        }
        pending.clone()
    }

    /// The run that ended has met an error of this kind: rows whose own transaction has met none are not charged,
    /// unless that happens too often, or they have failed by an error of their own.
    pub(crate) fn spare(&self, kind: ErrorKind) {
        for settlement in self.settlements.lock().iter_mut().filter(|settlement| settlement.error.is_none()) {
            let table = settlement.table.clone();
            settlement.charges.retain_mut(|charge| {
                let is_own = charge.failure.is_some() || charge.cause.is_some();
                if !is_own {
                    charge.cause = Some(kind);
                }
                is_own || self.count_loss(&table, &charge.row, Some(kind))
            });
        }
    }

    /// When the first item began whose row may be in flight because something is down that the service needs, and
    /// whether one of these rows would become `failed`. `None` if there are no such rows.
    pub(crate) fn unsettled_since(&self) -> Option<(tokio::time::Instant, bool)> {
        let settlements = self.settlements.lock();
        let unsettled = settlements.iter().filter(|settlement| settlement.error.is_none());
        let rows = unsettled.flat_map(|settlement| {
            let is_last = |charge: &Charge| settlement.table.is_last_attempt(charge.row.attempts);
            settlement.charges.iter().filter_map(move |charge| Some((charge.began?, is_last(charge))))
        });
        rows.reduce(|(began, is_last), (other, other_is_last)| (began.min(other), is_last || other_is_last))
    }

    /// The run that ended may have failed because something is down that the service needs: rows in flight without an
    /// error of their own are not charged, and wait.
    pub(crate) fn postpone_unsettled(&self) {
        for settlement in self.settlements.lock().iter_mut().filter(|settlement| settlement.error.is_none()) {
            let table = settlement.table.clone();
            for charge in settlement.charges.extract_if(.., |charge| charge.began.is_some()) {
                self.postpone(&table, &charge.row.key, LeftOut::Outage);
            }
        }
    }

    /// The replica has lost the lease of the service: no row is charged, and only claims are left to be released.
    pub(crate) fn forget_charges(&self) {
        self.settlements.lock().retain_mut(|settlement| {
            settlement.charges.clear();
            settlement.owner.is_some()
        });
    }

    /// Removes a settlement that was written.
    pub(crate) fn remove(&self, settlement: &Settlement) {
        self.settlements.lock().retain(|pending| pending.id != settlement.id);
    }
}
