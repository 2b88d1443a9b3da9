//! [`RowLease`]: renews the claims of a leased batch while the batch exists.
//!
//! So the claims of a dead worker expire and those of a slow one do not. A worker that was suspended, or could not reach
//! the database for longer than its lease, detects that by its own clocks and lends no more of its rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Condition, ExprTrait, Query};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::database::service_db::ServiceDb;
use crate::database::wall_clock::WallClock;
use crate::database::work::claim_table::{is_unlocked, millis};
use crate::service;
use crate::sync::Mutex;

/// How long a claim is valid without being renewed, by default.
pub(crate) const DEFAULT_CLAIM_LEASE: Duration = Duration::from_secs(60);

/// The claims of a batch, renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct RowLease {
    pub(crate) owner: String,
    pub(crate) length: Duration,
    state: Arc<LeaseState>,
    renewing: JoinHandle<()>,
}

/// A moment, by two clocks: one stops while the machine is suspended, the other can be set. Both are virtual in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    at: Instant,
    time: DateTime<Utc>,
}

impl Sent {
    pub(crate) fn now(clock: &WallClock) -> Self {
        Self { at: Instant::now(), time: clock.now() }
    }
}

#[derive(Debug)]
struct LeaseState {
    /// When the last successful renewal was sent.
    renewed: Mutex<Sent>,
    clock: WallClock,
    lost: AtomicBool,
}

impl LeaseState {
    /// Whether the lease has expired by this machine's clocks.
    fn is_lost(&self, length: Duration) -> bool {
        let Sent { at, time } = *self.renewed.lock();
        let by_time = (self.clock.now() - time).to_std().is_ok_and(|elapsed| elapsed >= length);
        let expired = by_time || at.elapsed() >= length;
        if expired {
            // A later renewal does not undo this: another worker may have claimed the rows in the meantime.
            self.lost.store(true, Ordering::Relaxed);
        }
        self.lost.load(Ordering::Relaxed)
    }
}

impl RowLease {
    /// Renews the claims of `owner`, which were made at `claimed`, until the lease is dropped.
    pub(crate) fn start(
        service_db: &ServiceDb,
        work_table: &str,
        owner: String,
        length: Duration,
        claimed: Sent,
    ) -> Self {
        let (renewed, clock) = (Mutex::new(claimed), service_db.clock.clone());
        let state = Arc::new(LeaseState { renewed, clock, lost: AtomicBool::new(false) });
        let (db, table) = (service_db.clone(), work_table.to_owned());
        let renewal = renew_always(db, table, owner.clone(), length, Arc::clone(&state));
        let renewing = service_db.spawn(&Handle::current(), renewal);
        Self { owner, length, state, renewing }
    }

    /// Whether the claims have expired, so that other workers may have claimed the rows.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.is_lost(self.length)
    }

    /// Records that a claim belongs to another worker.
    pub(crate) fn mark_lost(&self) {
        self.state.lost.store(true, Ordering::Relaxed);
    }
}

impl Drop for RowLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew_always(
    service_db: ServiceDb,
    work_table: String,
    owner: String,
    length: Duration,
    state: Arc<LeaseState>,
) {
    loop {
        tokio::time::sleep(length / 3).await;
        if state.is_lost(length) {
            return;
        }
        match renew(&service_db, &work_table, &owner, length).await {
            Ok(_) if state.is_lost(length) => return,
            Ok(sent) => *state.renewed.lock() = sent,
            Err(error) => {
                crate::log::warn!(service.id = &*service_db.service_id, table = work_table, %error, "the claims of a batch could not be renewed, retrying; if they expire, other workers can claim the rows");
            }
        }
    }
}

/// Renews the claims of an owner. Returns when the statement was sent.
async fn renew(service_db: &ServiceDb, work_table: &str, owner: &str, lease: Duration) -> service::error::Result<Sent> {
    let tx = service_db.begin().await?;
    // After the wait for a connection, and for SQLite's write lock.
    let (sent, now) = (Sent::now(&service_db.clock), service_db.time.millis(tx.get_database_backend()));
    let renewal = Query::update()
        .table("service_claim")
        .value("expires_at", now.add(millis(lease)))
        .cond_where(is_unlocked(work_table, owner, Condition::all()))
        .to_owned();
    tx.connection().await?.execute(&renewal).await?;
    tx.commit().await?;
    Ok(sent)
}
