//! `reload`: reads the configuration file again, and applies it to the services while they run.
//!
//! The tricky part is that a file with a mistake changes nothing: the configuration of every service is resolved and
//! checked before the first one is applied. Meanwhile the extension does not change the configuration of any service.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::config::options::Options;
use crate::config::{ConfigError, KeptValues, PendingChange, Resolved, Sources, Target};
use crate::log::{error, info, warn};
use crate::panic::Caught;
use crate::registry::checks::{check_resolved, each};
use crate::registry::service_registry::{Reported, ServiceRegistry};
use crate::runtime::dependencies::{self, Node};
use crate::runtime::registration::{RegisteredService, group_names};
use crate::service::error::{Error, Result};

/// The error of [`ServiceRegistry::reload`]: all mistakes that were found. Nothing was changed. The method returns it
/// inside an [`Error`]: `error.find::<ReloadError>()`.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file} was not applied, nothing was changed:{}",
    .problems.iter().map(|problem| format!("\n  - {problem}")).collect::<String>()
)]
#[non_exhaustive]
pub struct ReloadError {
    /// The name of the file.
    pub file: String,
    /// One message for each mistake.
    pub problems: Vec<String>,
}

/// The most services that a log line names.
const MOST_NAMED: usize = 10;

/// The configuration of one service after the file was read again.
struct Change {
    service: Arc<RegisteredService>,
    resolved: Arc<Resolved>,
    /// What stays as it was at the start, from now on.
    newly_kept: Option<KeptValues>,
    /// What only a restart changes.
    pending: Vec<PendingChange>,
    /// The options as they will be after a restart.
    after_restart: Arc<Options>,
}

impl ServiceRegistry {
    /// Reads the configuration file again, and applies it while the services run. Changed options apply at once, also
    /// to the current wait. If a service's own settings have changed, a fresh instance is built between two runs, and a
    /// current `run` has to end within its `drain_timeout`. The process also does this when it receives SIGHUP after
    /// [`start_all`](Self::start_all), unless its standard input was a terminal then: SIGHUP means that the terminal
    /// was closed, and begins a shutdown.
    ///
    /// The file overrides and is overridden by the same layers as at the start. `instances`, `depends_on`, `enabled`,
    /// `scope` and `lease` stay as they were at the start, and a ready-made instance is not rebuilt: a warning names
    /// the changes that need a restart of the program, once for each change. The environment, and so the value of each
    /// `${VARIABLE}`, is that of the start. Values that a service has changed itself (`set_interval`) stay, unless the
    /// file changes the same key.
    ///
    /// If there was no file at the start and there is still none, nothing changes. If the services do not run, the file
    /// applies to their next start. While the tables of a database are being read, this waits, for 15 s at most. If the
    /// future is dropped while it waits, nothing was changed: the file is applied in one step.
    ///
    /// # Errors
    /// A [`ReloadError`] with all mistakes; then nothing was changed. The file cannot be read or parsed (the error
    /// names the line) or no longer exists; an option is wrong, a key is unknown, a dependency does not exist; or a
    /// setting of a service that the file has changed is missing or wrong.
    ///
    /// ```standalone_crate
    /// use service_core::prelude::*;
    ///
    /// #[service(interval = 60)]
    /// async fn clean_up() {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let folder = std::env::temp_dir().join(format!("reload-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let file = folder.join("services.toml");
    /// std::fs::write(&file, "[clean_up]\ninterval = \"1m\"")?;
    /// let services = ServiceRegistry::builder().config_file(&file).start_all().await?;
    /// std::fs::write(&file, "[clean_up]\ninterval = \"5m\"")?;
    /// services.reload().await?;
    /// assert_eq!(services.get("clean_up").unwrap().explain().schedule, "every 5m");
    /// # std::fs::remove_dir_all(&folder)?;
    /// services.shutdown().await
    /// # }
    /// ```
    pub async fn reload(&self) -> Result<()> {
        self.waiting(self.read_again()).await
    }

    async fn read_again(&self) -> Result<()> {
        let mut reported = self.inner.reloading.lock().await;
        let _announced = self.announce_reload();
        let services = &self.inner.services;
        let _held = self.inner.extension.hold_configuration().await;
        let before = services.sources();
        let sources = Arc::new(before.load_again());
        let changes = match self.checked_changes(&before, &sources) {
            Ok(changes) => changes,
            Err(problems) => return Err(Error::new(ReloadError { file: sources.file_name.clone(), problems })),
        };
        services.set_sources(sources.clone());
        self.resolve_new_services(&changes);
        self.warn_of_unknown_sections(&before, &sources);
        *reported = self.apply_changes(changes, &sources, &reported);
        self.inner.extension.apply_rows_again(services);
        Ok(())
    }

    /// # Errors
    /// All mistakes in the file.
    fn checked_changes(&self, before: &Sources, sources: &Sources) -> std::result::Result<Vec<Change>, Vec<String>> {
        let mut problems: Vec<String> = sources.errors().iter().map(ToString::to_string).collect();
        if sources.errors().iter().any(|error| matches!(error, ConfigError::File { .. })) {
            // Without the file, settings would seem to be missing.
            return Err(problems);
        }
        let mut changes = Vec::new();
        for service in self.inner.services.all() {
            match self.change_of(service, before, sources) {
                Ok(change) => changes.push(change),
                Err(error) => problems.extend(each(&error)),
            }
        }
        problems.extend(self.wrong_dependencies(&changes, sources));
        // Several services of one type have the same mistakes.
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        if problems.is_empty() { Ok(changes) } else { Err(problems) }
    }

    /// Returns the mistakes in the dependencies that services will have after a restart.
    fn wrong_dependencies(&self, changes: &[Change], sources: &Sources) -> Vec<String> {
        let other_ids = changes.iter().any(Change::repeats_otherwise);
        if !other_ids && !changes.iter().any(Change::depends_otherwise) {
            return Vec::new();
        }
        // If a registration makes another number of services, one of the present ones represents it. The first may have
        // been unregistered.
        let mut counted = HashSet::new();
        let after_restart: Vec<AfterRestart<'_>> = changes
            .iter()
            .filter(|change| !change.repeats_otherwise() || counted.insert(change.service.registered_id()))
            .flat_map(|change| self.after_restart(change, sources))
            .collect();
        let mut nodes: Vec<Node<'_>> = after_restart.iter().map(AfterRestart::node).collect();
        let now: HashSet<&str> =
            changes.iter().flat_map(|Change { service, .. }| names(service.id(), service.group_names())).collect();
        let then: HashSet<&str> = nodes.iter().flat_map(|node| names(node.id, node.group_names)).collect();
        for node in &mut nodes {
            // A dependency that does not exist now either may have been unregistered.
            node.is_new |= node.depends_on.iter().any(|on| now.contains(&**on) && !then.contains(&**on));
        }
        let mut problems = clashes(&nodes);
        problems.extend(dependencies::check_nodes(&nodes, &[]));
        problems
    }

    /// Returns this service as it is after a restart; if its registration makes another number of services then, all of
    /// them.
    fn after_restart<'a>(&self, change: &'a Change, sources: &Sources) -> Vec<AfterRestart<'a>> {
        let Change { service, after_restart, .. } = change;
        let like: &RegisteredService = service;
        if !change.repeats_otherwise() {
            let (id, instance) = (service.id().to_string(), service.inner.instance);
            let (depends_on, is_new) = (after_restart.depends_on.clone(), change.depends_otherwise());
            return vec![AfterRestart { id, like, instance, depends_on, is_new }];
        }
        let (registered, of) = (service.registered_id(), after_restart.instances);
        let one = |number: u32| {
            let id = if of == 1 { registered.to_owned() } else { format!("{registered}_{number}") };
            let target = Target { id: &id, kept: None, ..service.target() };
            // Mistakes in the section of an id that does not exist yet are found at the restart.
            let resolved = sources.resolve(target, &self.inner.extension.rows(sources, &id));
            let depends_on = resolved.map_or_else(|_| Vec::new(), |resolved| resolved.options.depends_on.clone());
            AfterRestart { id, like, instance: (number, of), depends_on, is_new: true }
        };
        (1..=of).map(one).collect()
    }

    /// Resolves and checks the configuration of one service.
    fn change_of(&self, service: Arc<RegisteredService>, before: &Sources, sources: &Sources) -> Result<Change> {
        let extension = &self.inner.extension;
        let rows = extension.rows(sources, service.id());
        let new = Target { kept: None, ..service.target() };
        let newly_kept = match service.target().kept {
            Some(_) => None,
            None => Some(before.read_at_start(new)).filter(|then| !then.same_values(&sources.read_at_start(new))),
        };
        let kept = newly_kept.as_ref().or(service.target().kept);
        let wrong = |problem: String| Error::msg(format!("service `{}` ({}): {problem}", service.id(), service.place));
        let resolved = service.fit(sources.resolve(Target { kept, ..new }, &rows)?);
        let resolved = resolved.map_err(|unfit| wrong(unfit.to_string()))?;
        let after_restart = match kept {
            Some(_) => {
                let after_restart = service.fit_after_restart(sources.resolve(new, &rows)?);
                after_restart.map_err(|unfit| wrong(unfit.to_string()))?
            }
            None => resolved.clone(),
        };
        let pending = resolved.pending_changes(&after_restart);
        for resolved in [&resolved, &after_restart] {
            check_resolved(service.id(), resolved, &**extension, &self.inner.services.resources)?;
        }
        let current = service.inner.lock().requests.resolved.clone();
        // A service whose settings were wrong before has failed already, unless its ready-made instance reads none.
        let reads_none = || {
            service.factory.is_ready_made()
                && !matches!(service.check_settings(&current.settings), Caught::Returned(Ok(())))
        };
        if !current.settings.same_values(&resolved.settings) && !reads_none() {
            match service.check_settings(&resolved.settings) {
                Caught::Returned(checked) => checked?,
                Caught::Panicked(message) => return Err(wrong(format!("reading the settings panicked: {message}"))),
            }
        }
        Ok(Change { service, resolved, newly_kept, pending, after_restart: after_restart.options.clone() })
    }

    /// Applies the configuration to the services. Returns the changes that need a restart; those that are not in
    /// `reported` are reported.
    fn apply_changes(&self, changes: Vec<Change>, sources: &Sources, reported: &Reported) -> Reported {
        let (mut changed, mut still_pending, mut lines) = (Vec::new(), Reported::new(), Vec::new());
        for Change { service, resolved, newly_kept, pending, .. } in changes {
            let id = service.id();
            for PendingChange { key, value, place } in pending {
                // `instances` is set for the type.
                let (name, what) = match key {
                    "instances" => (service.descriptor.id, ""),
                    _ => (&**id, "service "),
                };
                let change = (name.to_owned(), key, value);
                if !reported.contains(&change) && !still_pending.contains(&change) {
                    lines.push(format!("`{key}` of {what}`{name}` ({place})"));
                }
                still_pending.insert(change);
            }
            if let Some(values) = newly_kept {
                service.keep(values);
            }
            let before = service.inner.lock().requests.resolved.clone();
            for warning in resolved.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
                service.inner.log(|| warn!(service.id = %id, "{warning}"));
            }
            let other_options = before.options != resolved.options;
            let other_settings = service.reconfigure(resolved);
            if other_settings && service.factory.is_ready_made() {
                lines.push(format!("the settings of service `{id}`, whose instance is ready-made"));
            }
            if other_options || other_settings {
                changed.push(id.clone());
            }
        }
        let file = &sources.file_name;
        let named = changed.iter().take(MOST_NAMED).map(|id| &**id).collect::<Vec<_>>().join(", ");
        let more = if changed.len() > MOST_NAMED { ", …" } else { "" };
        match changed.len() {
            _ if !sources.file_exists => info!("{file} does not exist, so the configuration is unchanged"),
            0 => info!("{file} was read again, no configuration in effect has changed"),
            count => info!("{file} was read again, {count} service(s) have a new configuration: {named}{more}"),
        }
        if !lines.is_empty() {
            warn!("these changes of {file} need a restart of the program: {}", lines.join(", "));
        }
        still_pending
    }

    fn warn_of_unknown_sections(&self, before: &Sources, sources: &Sources) {
        let services = self.inner.services.all();
        let names = || {
            let registered = services.iter().flat_map(|service| [&**service.id(), service.descriptor.id]);
            registered.chain(Self::discovered().into_iter().map(|descriptor| descriptor.id))
        };
        let known = before.unknown_sections(names());
        for warning in sources.unknown_sections(names()).iter().filter(|warning| !known.contains(warning)) {
            warn!("{warning}");
        }
    }

    /// Resolves the configuration of services that were registered while the changes were checked. Those that are
    /// registered from now on find the new sources.
    fn resolve_new_services(&self, changes: &[Change]) {
        let known: HashSet<_> = changes.iter().map(|change| Arc::as_ptr(&change.service)).collect();
        for service in self.inner.services.all() {
            if !known.contains(&Arc::as_ptr(&service)) {
                self.resolve_again(&service);
            }
        }
    }

    /// Resolves the configuration of a service that was registered while the file was read again.
    pub(super) fn resolve_again(&self, service: &RegisteredService) {
        let resolved =
            self.inner.services.sources().resolve(service.target(), &[]).map_err(|errors| errors.to_string());
        match resolved.and_then(|resolved| service.fit(resolved).map_err(|unfit| unfit.to_string())) {
            Ok(resolved) => _ = service.reconfigure(resolved),
            Err(wrong) => service.inner.log(|| {
                warn!(service.id = %service.id(), "the changed file cannot be used, the previous configuration stays in effect: {wrong}");
            }),
        }
    }

    /// Reads the file again because of a signal.
    pub(super) fn reload_by_signal(&self, signal: &'static str) {
        let registry = self.clone();
        let work = async move {
            if let Err(error) = registry.reload().await {
                error!("{signal}: {error:#}");
            }
        };
        // The code of the services, which reads settings, runs on their runtime.
        match self.inner.home.current() {
            Some(runtime) => runtime.spawn(work),
            None => tokio::spawn(work),
        };
    }
}

/// A service as it will be after a restart.
struct AfterRestart<'a> {
    id: String,
    /// One of the services that the same registration has made.
    like: &'a RegisteredService,
    /// Its number, and how many services the registration makes.
    instance: (u32, u32),
    depends_on: Vec<String>,
    /// It does not exist yet, or its dependencies are others than now.
    is_new: bool,
}

impl AfterRestart<'_> {
    fn node(&self) -> Node<'_> {
        Node {
            id: &self.id,
            group_names: group_names(&self.id, self.like.descriptor, self.instance),
            depends_on: &self.depends_on,
            is_new: self.is_new,
            place: self.like.place,
        }
    }
}

/// The id of a service, and the names that stand for it and others.
fn names<'a>(id: &'a str, group_names: [Option<&'a str>; 2]) -> impl Iterator<Item = &'a str> {
    std::iter::once(id).chain(group_names.into_iter().flatten())
}

/// Returns the mistakes in ids that two services would have.
fn clashes<'a>(nodes: &'a [Node<'a>]) -> Vec<String> {
    let mut first = BTreeMap::new();
    let clash = |node: &'a Node<'a>| {
        let earlier = first.insert(node.id, node.place)?;
        let (id, place) = (node.id, node.place);
        Some(format!(
            "two services would have the id `{id}` ({earlier} and {place}): give one of them another id, or change `instances`"
        ))
    };
    nodes.iter().filter_map(clash).collect()
}

impl Change {
    fn repeats_otherwise(&self) -> bool {
        self.after_restart.instances != self.resolved.options.instances
    }

    fn depends_otherwise(&self) -> bool {
        self.after_restart.depends_on != self.resolved.options.depends_on
    }
}

#[cfg(test)]
mod tests {
    use service_macros::service;

    use super::*;
    use crate::config::Inputs;

    #[derive(Default)]
    struct Packer;

    #[service(crate = crate, discover = false)]
    impl Packer {
        async fn update(&mut self) {}
    }

    /// `services.toml` of the working directory, which no code names.
    #[tokio::test]
    async fn a_file_that_nothing_names_may_be_missing_until_it_has_been_there() {
        let folder = std::env::temp_dir().join(format!("service-core-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let environment = vec![("SERVICES__PACKER__RETRY_DELAY".into(), "7".into())];
        let mut builder = ServiceRegistry::builder().without_discovered().service_of::<Packer>("packer");
        builder.inputs = Some(Inputs { environment, directory: Some(folder.clone()), ..Inputs::default() });
        let services = builder.build().await.unwrap();
        let packer = services.get("packer").unwrap();
        services.reload().await.unwrap();
        assert_eq!(packer.explain().schedule, "every 1m");
        std::fs::write(folder.join("services.toml"), "[packer]\ninterval = 5\nretry_delay = 3").unwrap();
        services.reload().await.unwrap();
        let explained = packer.explain();
        let retry_delay = explained.options.iter().find(|option| option.key == "retry_delay").unwrap();
        assert_eq!(
            (explained.schedule.as_str(), retry_delay.value.as_str()),
            ("every 5s", "7s"),
            "the environment wins"
        );
        std::fs::remove_file(folder.join("services.toml")).unwrap();
        let gone = services.reload().await.unwrap_err();
        assert_eq!(gone.find::<ReloadError>().unwrap().problems, ["services.toml: the file does not exist any more"]);
        assert_eq!(packer.explain().schedule, "every 5s");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
