//! `run_once`: one run of a service that does not run, for schedulers outside the program.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::registry::register::unknown;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::factory::{READY_MADE_HAS_FAILED, ready_made_has_ended};
use crate::runtime::registration::RegisteredService;
use crate::runtime::runtime_state::RuntimeState;
use crate::service::error::{Error, Result};
use crate::service::outcome::RunReport;
use crate::service::state::ServiceState;

impl ServiceRegistry {
    /// Builds an instance of a service that does not run, runs it once, cleans it up, and returns the report of the
    /// run. For a scheduler outside the program, such as a Kubernetes CronJob: after
    /// [`build`](crate::RegistryBuilder::build), nothing else has to be started.
    ///
    /// The schedule, `initial_delay`, `enabled`, `depends_on` and a pause by an operator are ignored, and no other
    /// service is started. `timeout`, `drain_timeout` and `max_concurrent_runs` apply. After a failure no retry
    /// follows: `on_failure` is called, but its answer has no effect, the service is never `Failed`, and `restart` and
    /// `critical` do nothing. Missed cron fires are not made up. While it runs, a stop or a shutdown drains the run.
    /// The configuration is read as for a start, with the tables of the database; a database that is down delays the
    /// run by 6 s at most. A service with `scope = "cluster"` takes its lease for the run.
    ///
    /// Dropping the future does not cancel the run.
    ///
    /// # Errors
    /// There is no such service; it has `run`; it runs, is stopping or is `Failed` (`reset` it); its ready-made
    /// instance has ended; a shutdown is in progress; a stop came before the run; another replica holds the lease,
    /// which the error names; the lease was lost before the run had ended; or the framework's tables cannot be created.
    /// If `configure` or the run itself fails, panics or takes too long, the error is in the report.
    ///
    /// ```standalone_crate
    /// use service_core::prelude::*;
    ///
    /// #[derive(Default)]
    /// struct Invoices;
    ///
    /// #[service(enabled = false)]
    /// impl Invoices {
    ///     async fn update(&mut self) -> Outcome {
    ///         Outcome::processed(3)
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let services = ServiceRegistry::builder().build().await?;
    /// let report = services.run_once("invoices").await?;
    /// assert_eq!(report.processed(), 3);
    /// if let Some(error) = report.error() {
    ///     return Err(error.clone());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_once(&self, id: &str) -> Result<RunReport> {
        let service = self.inner.services.get(id).ok_or_else(|| unknown(id, &self.list()))?;
        self.run_service_once(&service).await
    }

    pub(crate) async fn run_service_once(&self, service: &Arc<RegisteredService>) -> Result<RunReport> {
        let inner = &self.inner;
        // What is refused does not wait for the database.
        may_run_once(service, &service.inner.lock())?;
        let session = self.session_of_call();
        self.waiting(inner.extension.before_all(&inner.services)).await?;
        let session = session.unwrap_or_else(|| self.reopen());
        let runtime = inner.home.handle()?;
        let mut skips_fires_since = None;
        let mut supervisor = self.begin(&session, service, "run", |state| {
            skips_fires_since = state.status.skips_fires_since;
            may_run_once(service, state)
        })?;
        self.keep_watching(&runtime);
        let (waiter, report) = oneshot::channel();
        supervisor.limit_to_one_run(waiter, skips_fires_since);
        let incarnation = supervisor.incarnation();
        self.spawn(&runtime, supervisor);
        let reported = async {
            let report = report.await;
            service.inner.until_ended(incarnation).await;
            // The process may end before the next time when notifications are sent.
            inner.extension.send_rest().await;
            report
        };
        let report = self.waiting(reported).await;
        report.map_err(|_| {
            let refusal = service.inner.lease.as_ref().and_then(|lease| lease.take_refusal());
            refusal.map_or_else(
                || service.inner.ended_before_run(),
                |why| Error::msg(format!("service `{}` {why}", service.id())),
            )
        })
    }
}

/// # Errors
/// The state of the service does not allow a single run.
fn may_run_once(service: &RegisteredService, state: &RuntimeState) -> Result<()> {
    let why = match state.state() {
        _ if state.requests.options.long_run().is_some() => {
            "its `run` continues until a stop is requested; only a service with `update` can run once"
        }
        _ if state.requests.unregistered => "it has been unregistered",
        ServiceState::Created | ServiceState::Stopped if service.factory.has_next() => return Ok(()),
        ServiceState::Created | ServiceState::Stopped => return Err(ready_made_has_ended(service.id())),
        ServiceState::Failed if !service.factory.has_next() => READY_MADE_HAS_FAILED,
        ServiceState::Failed => state.why_down(),
        ServiceState::Draining => "it is still stopping",
        _ => "it is running already; `run_now` requests a run of it",
    };
    state.refuse(service.id(), "run", why)
}
