//! Requests from other replicas what this one cannot do itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Fleet, LIMIT, POLL_INTERVAL};
use crate::cluster::identity::unique;
use crate::cluster::request_table::{Action, RequestProgress, VOID_AFTER};
use crate::log::debug;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::{Error, Result};
use crate::service::state::ServiceState;

/// How long the report of a run may follow the end of the lease.
const REPORT_LIMIT: Duration = Duration::from_secs(3);
/// A replica on which a service has failed writes that to its row within this time, if the database answers.
const FAILURE_WRITTEN: Duration = Duration::from_secs(1);

impl Fleet {
    pub(in crate::cluster) async fn request_run(
        &self,
        service: &ServiceInner,
    ) -> Result<crate::service::outcome::RunReport> {
        let id = unique();
        self.table.add_request(&id, &service.id, Action::Run, LIMIT).await?;
        let holder = || match service.lease.as_ref().map(|lease| lease.describe_holder()) {
            Some(Ok(holder)) => format!("its lease is {holder}"),
            Some(Err(why)) => why,
            None => "it has no lease".to_owned(),
        };
        let fail = |why: &str| Err(Error::msg(format!("the run of service `{}` {why}; {}", service.id, holder())));
        let (mut lost, mut answered) = (None::<Instant>, Instant::now());
        loop {
            let changed = self.answered.notified();
            match self.table.read_progress(&id, LIMIT).await {
                Ok(RequestProgress::Done(report)) => return Ok(report),
                Ok(RequestProgress::Void) => return fail("was requested, and no replica has taken the request"),
                Ok(RequestProgress::Gone) => {
                    return fail("may still be in progress: its request is no longer stored, so its result is unknown");
                }
                Ok(RequestProgress::Open | RequestProgress::Taken { is_holder: true }) => lost = None,
                Ok(RequestProgress::Taken { is_holder: false }) => _ = lost.get_or_insert_with(Instant::now),
                Err(error) if answered.elapsed() > VOID_AFTER => return Err(error),
                Err(_) => {
                    let _ = timeout(POLL_INTERVAL, changed).await;
                    continue;
                }
            }
            answered = Instant::now();
            // The report may be written after the lease is released.
            if lost.is_some_and(|lost| lost.elapsed() >= REPORT_LIMIT) {
                return fail("may be incomplete: the replica that began it has lost the lease");
            }
            let _ = timeout(POLL_INTERVAL, changed).await;
        }
    }

    pub(in crate::cluster) fn forward_wake(&self, id: &Arc<str>) {
        if self.wakes.lock().insert(id.clone()) {
            self.to_serve.notify_one();
        }
    }

    /// Requests the wake-ups that this replica cannot serve, each service once in a second: `all` of them, or those
    /// that are due. If the database does not answer, later. Returns whether some are left.
    pub(in crate::cluster) async fn send_wakes(&self, all: bool) -> bool {
        let mut sent = self.sent.lock().await;
        sent.retain(|_, at| at.elapsed() < POLL_INTERVAL);
        let due: Vec<_> = self.wakes.lock().extract_if(.., |id| all || !sent.contains_key(id)).collect();
        for id in due {
            match self.table.add_wake(&id, LIMIT).await {
                Ok(()) => _ = sent.insert(id, Instant::now()),
                Err(error) => {
                    debug!(service.id = %id, "the wake-up cannot be forwarded yet: {error:#}");
                    self.wakes.lock().insert(id);
                }
            }
        }
        !self.wakes.lock().is_empty()
    }

    /// Requests a `reset` from the other replicas, whatever their rows say: a row may be older than the failure. Returns
    /// on how many of them the service is known to be `Failed`.
    pub(in crate::cluster) async fn reset_others(&self, service: &ServiceInner) -> Result<usize> {
        let has_failed = |state: &ServiceState| *state == ServiceState::Failed;
        let has_failed_here = has_failed(&service.lock().state());
        let mut others = self.states_elsewhere(&service.id).await?;
        if !has_failed_here && !others.is_empty() && !others.iter().any(has_failed) {
            // The call is an error unless one has failed.
            tokio::time::sleep(FAILURE_WRITTEN).await;
            others = self.states_elsewhere(&service.id).await?;
        }
        if has_failed_here || !others.is_empty() {
            let id = unique();
            // This replica is reset by the call itself.
            self.known.lock().insert(id.clone(), Instant::now());
            self.table.add_request(&id, &service.id, Action::Reset, LIMIT).await?;
        }
        Ok(others.iter().filter(|state| has_failed(state)).count())
    }

    /// Returns the state of a service on each other live replica that has it.
    async fn states_elsewhere(&self, id: &str) -> Result<Vec<ServiceState>> {
        let replicas = self.replicas().await?;
        let others = replicas.iter().filter(|replica| !replica.is_this && replica.is_live);
        Ok(others.filter_map(|replica| replica.service(id)).map(|service| service.state).collect())
    }
}
