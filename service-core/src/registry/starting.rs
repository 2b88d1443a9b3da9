//! Starting: those that others depend on first, and what is wrong with the order that was asked for.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, MutexGuard};

use tokio::time::Instant;
use tracing::{error, warn};

use super::ServiceRegistry;
use crate::registry::dependencies;
use crate::registry::handle::ServiceHandle;
use crate::runtime::context::Context;
use crate::runtime::control::Control;
use crate::runtime::entry::{Entry, used_up};
use crate::runtime::supervisor::{Supervisor, supervise};
use crate::service::error::Result;
use crate::service::state::ServiceState;

/// What a service that depends on others waits for.
pub(crate) struct Waiting {
    pub(crate) missing: Vec<Arc<str>>,
    /// None of them is on its way up.
    pub(crate) in_vain: bool,
}

impl ServiceRegistry {
    /// Starts everything that is enabled and does not run, also after [`stop_all`](Self::stop_all), and waits until each
    /// is running or its first `configure` has failed, at most 30 s. Failed services are left to
    /// [`reset`](ServiceHandle::reset).
    ///
    /// # Errors
    /// There is no tokio runtime; or the database is there, but lacks the framework's tables, which cannot, or shall not, be
    /// made. A service that cannot start is no error, nor is a database that is away; health says why.
    pub async fn start(&self) -> Result<()> {
        #[cfg(feature = "database")]
        {
            crate::database::poll_before_start(self).await?;
            crate::database::keep_watching(self, &tokio::runtime::Handle::try_current()?);
        }
        let mut started = Vec::new();
        for entry in self.tiers().into_iter().flatten() {
            let control = entry.lock();
            let down = matches!(control.state(), ServiceState::Created | ServiceState::Stopped);
            if !down || !control.options.enabled || control.forgotten {
                continue;
            }
            if !entry.factory.has_next() {
                warn!(service.id = %entry.id, "not started: {}", used_up(&entry.id));
                continue;
            }
            let life = self.launch(&entry, control)?;
            started.push((self.handle(entry), life));
        }
        let deadline = Instant::now() + crate::registry::handle::START_PATIENCE;
        for (handle, life) in started {
            if let Err(error) = self.waiting(handle.started(life, deadline)).await {
                error!(service.id = %handle.id(), "did not start: {error:#}");
            }
        }
        Ok(())
    }

    /// The program's start: [`start`](Self::start), after a word on what there is.
    pub(crate) async fn start_announced(&self) -> Result<()> {
        if cfg!(panic = "abort") {
            warn!("this program is built with panic = \"abort\": a panic in a service ends the whole process");
        }
        crate::observe::startup_table::log(self);
        self.start().await
    }

    /// Begins a service's life; `driver` carries it on.
    pub(crate) fn launch(&self, entry: &Arc<Entry>, mut control: MutexGuard<'_, Control>) -> Result<u32> {
        let runtime = tokio::runtime::Handle::try_current()?;
        if control.forgotten {
            return control.refuse(&entry.id, "start", "it has been unregistered");
        }
        if self.inner.shutting.load(SeqCst) > 0 {
            return control.refuse(&entry.id, "start", "everything is being shut down");
        }
        let from = control.state();
        control.begin();
        entry.tell_change(&mut control, from, ServiceState::Starting);
        let number = control.life;
        let cx = Context { entry: entry.clone(), registry: self.clone(), life: number, run: control.stats.runs };
        let life = Box::pin(supervise(Supervisor::new(cx, &control)));
        // A runtime that goes down drops it at once, which locks the control.
        drop(control);
        #[cfg(feature = "database")]
        crate::database::keep_watching(self, &runtime);
        self.inner.hub.drivers.begin(life, entry.clone(), self, &runtime);
        Ok(number)
    }

    /// Which of these services are not up.
    pub(crate) fn not_up(&self, ids: &[String]) -> Waiting {
        let mut waiting = Waiting { missing: Vec::new(), in_vain: true };
        for id in ids {
            let found = self.get(id);
            let state = found.as_ref().map(ServiceHandle::state);
            if matches!(state, Some(ServiceState::Running | ServiceState::Paused))
                && found.as_ref().is_some_and(|handle| handle.entry.lock().up)
            {
                continue;
            }
            let coming = found.is_some_and(|handle| {
                let control = handle.entry.lock();
                control.state() == ServiceState::Starting && !control.settled
            });
            waiting.in_vain &= !coming;
            waiting.missing.push(Arc::from(id.as_str()));
        }
        waiting
    }

    pub(super) fn tiers(&self) -> Vec<Vec<Arc<Entry>>> {
        let entries = self.entries();
        let options: Vec<_> = entries.iter().map(|entry| entry.lock().options.clone()).collect();
        let graph = entries
            .iter()
            .zip(&options)
            .map(|(entry, options)| (&*entry.id, options.depends_on.iter().map(String::as_str).collect()))
            .collect();
        match dependencies::tiers(&graph) {
            Ok(tiers) => {
                let by_id: BTreeMap<&str, &Arc<Entry>> = entries.iter().map(|entry| (&*entry.id, entry)).collect();
                tiers
                    .into_iter()
                    .map(|tier| tier.into_iter().filter_map(|id| by_id.get(id).map(|e| (*e).clone())).collect())
                    .collect()
            }
            // Registering refuses cycles; whatever happens, everything is stopped.
            Err(_) => vec![entries],
        }
    }
}

/// Unknown ids and cycles that the new services' dependencies bring. What an older one depends on may have been
/// unregistered since; that is not the new one's fault. `wrong` are ids of services that have other mistakes.
pub(crate) fn check_dependencies(new: &[Arc<Entry>], old: &[Arc<Entry>], wrong: &[&str]) -> Vec<String> {
    let all = || new.iter().chain(old);
    let options: Vec<_> = all().map(|entry| entry.lock().options.clone()).collect();
    let graph: BTreeMap<&str, Vec<&str>> = all()
        .zip(&options)
        .map(|(entry, options)| (&*entry.id, options.depends_on.iter().map(String::as_str).collect()))
        .collect();
    let mut problems = Vec::new();
    for (entry, options) in new.iter().zip(&options) {
        for dependency in options.depends_on.iter().map(String::as_str) {
            if graph.contains_key(dependency) || wrong.contains(&dependency) {
                continue;
            }
            let hint = crate::suggest::nearest(dependency, graph.keys().chain(wrong).copied())
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            let (id, place) = (&entry.id, entry.place());
            problems.push(format!("service `{id}` ({place}) depends on `{dependency}`, which is not registered{hint}"));
        }
    }
    if let Err(cycle) = dependencies::tiers(&graph) {
        problems.push(format!("services depend on each other in a circle: {}", cycle.join(" -> ")));
    }
    problems
}
