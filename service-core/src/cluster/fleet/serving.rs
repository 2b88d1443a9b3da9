//! Carries out what other replicas request.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Fleet, LIMIT, POLL_INTERVAL};
use crate::cluster::replica_table::FORGOTTEN;
use crate::cluster::request_table::{Action, Request, VOID_AFTER};
use crate::log::debug;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::registration::RegisteredService;
use crate::runtime::service_inner::ServiceInner;
use crate::service::error::Result;
use crate::service::state::ServiceState;

impl Fleet {
    /// Carries out what other replicas request.
    pub(super) async fn serve(&self, registry: &ServiceRegistry) -> Result<()> {
        let _serving = self.serving.lock().await;
        let requests = self.table.read_requests(LIMIT).await?;
        self.known.lock().retain(|_, since| since.elapsed() < FORGOTTEN);
        let mut failed = Ok(());
        for request in requests {
            let Some(service) = registry.inner.services.get(&request.service_id) else { continue };
            if let Err(error) = self.serve_one(registry, service, request).await {
                // The others do not wait for it.
                failed = Err(error);
            }
        }
        failed
    }

    async fn serve_one(
        &self,
        registry: &ServiceRegistry,
        service: Arc<RegisteredService>,
        request: Request,
    ) -> Result<()> {
        match request.action {
            Action::Reset => {
                let is_new = self.known.lock().insert(request.id, Instant::now()).is_none();
                if is_new && service.inner.lock().state() == ServiceState::Failed {
                    let handle = registry.handle(service);
                    // Its start may take long. If it fails, the service is `Failed` again.
                    tokio::spawn(async move { _ = handle.reset_here().await });
                }
            }
            // Else another replica takes it, or this one later.
            Action::Wake if service.inner.serves_other_replicas(false) => {
                // If it cannot be removed, it is served once, and its removal is tried again.
                let is_new = self.known.lock().insert(request.version(), Instant::now()).is_none();
                let removed = self.table.remove_wake(&request, LIMIT).await;
                // It may be removed also if the answer is an error. The run begins after the removal.
                if is_new && !service.inner.wake_for_others() {
                    // It has stopped or is handed over since.
                    self.forward_wake(service.id());
                }
                removed?;
                // It is not read again.
                self.known.lock().remove(&request.version());
            }
            Action::Run if !self.is_known(&request.id) && service.inner.serves_other_replicas(true) => {
                if self.table.take_request(&request.id, LIMIT).await? {
                    let id = request.id.clone();
                    self.known.lock().insert(id.clone(), Instant::now());
                    if !self.carry_out(&service.inner, request) {
                        self.known.lock().remove(&id);
                        self.table.give_back(&id, LIMIT).await?;
                    }
                }
            }
            Action::Wake | Action::Run => {}
        }
        Ok(())
    }

    fn is_known(&self, id: &str) -> bool {
        self.known.lock().contains_key(id)
    }

    /// Makes a run that was requested, and stores its report. If the service stops or loses its lease before the run
    /// begins, the next holder makes it. Returns `false` if the service has stopped or is handed over since.
    fn carry_out(&self, service: &Arc<ServiceInner>, request: Request) -> bool {
        let (waiter, report) = oneshot::channel();
        let requested = service.request_next_run(Some(waiter));
        if requested.is_err() && !service.serves_other_replicas(true) {
            return false;
        }
        let (table, known, service) = (self.table.clone(), self.known.clone(), service.clone());
        // An error means that the shutdown waits already.
        let reporting = self.reporting.clone().try_read_owned();
        tokio::spawn(async move {
            let _reporting = reporting;
            let report = match requested {
                Ok(before) => match report.await {
                    Err(_) if service.lock().status.stats.runs == before => None,
                    report => Some(report.map_err(|_| service.ended_before_run())),
                },
                Err(error) => Some(Err(error)),
            };
            let ended = Instant::now();
            let store = async || match &report {
                Some(report) => table.write_report(&request.id, report, LIMIT).await,
                None => table.give_back(&request.id, LIMIT).await,
            };
            while let Err(error) = store().await {
                debug!(service.id = %service.id, "the report of a requested run cannot be stored yet: {error:#}");
                // Who waits for the report gets an error as soon as the lease is lost.
                if ended.elapsed() > VOID_AFTER && !service.lease.as_ref().is_some_and(|lease| lease.is_held()) {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            if report.is_none() {
                // The next holder may be this replica.
                known.lock().remove(&request.id);
                table.notify_replicas();
            }
        });
        true
    }

    /// Waits until the requests that this replica has taken are carried out. Cancelled, it stops none of them.
    pub(in crate::cluster) async fn served(&self) {
        drop(self.serving.lock().await);
        drop(self.reporting.write().await);
    }
}
