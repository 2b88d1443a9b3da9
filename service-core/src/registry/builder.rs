//! [`RegistryBuilder`]: collects services and options before the start, and reports all mistakes at once.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::log::warn;

use crate::config::is_name;
use crate::config::options::ServiceOptions;
use crate::config::{Inputs, SettingValue, Sources};
use crate::panic;
use crate::registry::all;
use crate::registry::checks::{check_expected, check_ids, check_names, check_resolved, each};
use crate::registry::companion::{CompanionBuilder, CompanionSettings, LeasesBuilder};
use crate::registry::home::Home;
use crate::registry::instances;
use crate::registry::service_registry::{Companion, RegistryInner, ServiceRegistry};
use crate::registry::session::SHUTDOWN_TIMEOUT;
use crate::registry::signals;
use crate::runtime::clock::Clock;
use crate::runtime::dependencies;
use crate::runtime::extension::{Extension, NoExtension, VirtualTime};
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::lifecycle::{BoxFuture, Discovered, IntoService, Service};
use crate::runtime::probe::Probe;
use crate::runtime::registration::{RegisteredService, Registration};
use crate::runtime::resource::{DATABASE, Resource};
use crate::runtime::services::Services;
use crate::runtime::shared::{Polls, Shared, SharedStates};
use crate::service::error::{Error, Result};
use crate::suggest;
use crate::sync::Mutex;

/// Builds a [`ServiceRegistry`]: its services, their configuration, and what they share.
///
/// ```no_run
/// use service_core::prelude::*;
///
/// # async fn example() -> Result<()> {
/// let services = ServiceRegistry::builder()
///     .requester_id("back-office")
///     .set("email_sender.batch_size", 10)
///     .start_all()
///     .await?;
/// services.until_shutdown().await
/// # }
/// ```
#[derive(Default)]
#[must_use = "nothing is registered before `build` or `start_all`"]
pub struct RegistryBuilder {
    registrations: Vec<Registration>,
    options: Vec<(String, ServiceOptions)>,
    problems: Vec<String>,
    states: SharedStates,
    pub(crate) inputs: Option<Inputs>,
    config_file: Option<PathBuf>,
    sets: Vec<(String, SettingValue)>,
    pub(crate) sets_for_all: Vec<(String, SettingValue)>,
    requester_id: Option<String>,
    shutdown_timeout: Option<Duration>,
    only: Option<Vec<String>>,
    except: Vec<String>,
    pub(crate) without_discovered: bool,
    without_systemd: bool,
    strict: bool,
    probes: Vec<Arc<Probe>>,
    max_concurrent_runs: Option<usize>,
    pub(crate) companion_settings: CompanionSettings,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
    pub(crate) extension: Option<Box<dyn ExtensionBuilder>>,
    pub(crate) virtual_time: Option<Arc<dyn VirtualTime>>,
}

/// The part of the builder that belongs to a feature: it builds the feature's extension.
pub(crate) trait ExtensionBuilder: Any + Send {
    /// Builds the extension.
    ///
    /// # Errors
    /// The extension can never work.
    fn build(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Extension>>>;
}

impl RegistryBuilder {
    /// Sets the requester id, which names on whose behalf the services act. Default: the environment variable
    /// `SYSTEM_ID`, else `system`.
    pub fn requester_id(mut self, id: impl Into<String>) -> Self {
        self.requester_id = Some(id.into());
        self
    }

    /// Adds a value that services share: `cx.state::<T>()` returns it. `T` is exactly the type of `value`: an
    /// `Arc<Mailer>` is not found as `Mailer`. There is one value of each type; a later call replaces it.
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Sets how long a shutdown may take to stop all services. Default: 25 s. The tiers of dependencies share this
    /// time. A service that still runs when it is over is named in the error of
    /// [`shutdown`](ServiceRegistry::shutdown).
    ///
    /// After the services, these steps follow, each at most for:
    ///
    /// | step | time |
    /// |---|---|
    /// | other replicas get the last wake-ups, and learn of the end | the rest of `shutdown_timeout`, at least 1 s |
    /// | alerts that wait are delivered (feature `admin`) | 4 s |
    /// | requests to the admin interface end | 2 s |
    ///
    /// If blocking code does not return, [`until_shutdown`](ServiceRegistry::until_shutdown) ends the process 3 s after
    /// that. So a process can need 10 s more than `shutdown_timeout`; without alerts, admin interface and blocking
    /// code, 1 s more. Allow that time before it is killed, for example with `terminationGracePeriodSeconds`.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = Some(timeout);
        self
    }

    /// Sets the configuration file. Default: the file that the environment variable `SERVICES_CONFIG` names, else
    /// `services.toml` in the working directory if it exists. [`reload`](ServiceRegistry::reload) reads it again. A
    /// file that is named here and does not exist is an error of [`build`](Self::build).
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_file = Some(path.into());
        self
    }

    /// Sets one key of one service, such as `"email_sender.batch_size"`. It overrides every other layer. For tests. A
    /// malformed key, an unknown key and a wrong value of an option are errors of [`build`](Self::build). A wrong value
    /// of a service's own setting makes that service `Failed` when it starts. An id that no service has is only a
    /// warning.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.sets.push((key.into(), value.into()));
        self
    }

    /// Registers only these of the annotated services. An id that no annotated service has is an error of
    /// [`build`](Self::build).
    pub fn only<I: IntoIterator<Item = T>, T: AsRef<str>>(mut self, ids: I) -> Self {
        self.only.get_or_insert_default().extend(ids.into_iter().map(|id| id.as_ref().to_owned()));
        self
    }

    /// Registers all annotated services except these. An id that no annotated service has is an error of
    /// [`build`](Self::build).
    pub fn except<I: IntoIterator<Item = T>, T: AsRef<str>>(mut self, ids: I) -> Self {
        self.except.extend(ids.into_iter().map(|id| id.as_ref().to_owned()));
        self
    }

    /// Registers none of the annotated services.
    pub fn without_discovered(mut self) -> Self {
        self.without_discovered = true;
        self
    }

    /// The end of the services is not that of the program.
    pub(super) fn without_systemd(mut self) -> Self {
        self.without_systemd = true;
        self
    }

    /// Registers a ready-made instance. It cannot be rebuilt: when it panics, the service is `Failed`, and `restart` is
    /// an error of [`build`](Self::build). So is an id that is malformed or taken.
    #[track_caller]
    pub fn service<S: Service>(mut self, id: impl AsRef<str>, service: S) -> Self {
        self.registrations.push(Registration::ready_made(id.as_ref(), service));
        self
    }

    /// Registers a closure that builds instances: `|| S`, `|| Result<S, E>`, or `async |cx: &Context| …` with the same
    /// results. Write the type of `cx`. The captures of an async closure are `Clone`, and are cloned for each instance.
    /// An id that is malformed or taken is an error of [`build`](Self::build).
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// struct Poller {
    ///     address: String,
    /// }
    ///
    /// #[service(interval = 60, discover = false)]
    /// impl Poller {
    ///     async fn update(&mut self) {}
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let address = "localhost:7000".to_owned();
    /// let services = ServiceRegistry::builder()
    ///     .without_discovered()
    ///     .service_fn("poller", async move |cx: &Context| -> Result<Poller> {
    ///         println!("building {}", cx.service_id());
    ///         Ok(Poller { address })
    ///     })
    ///     .build()
    ///     .await?;
    /// # drop(services);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn service_fn<Form, F>(mut self, id: impl AsRef<str>, build: F) -> Self
    where
        F: InstanceFn<Form, Out: IntoService>,
    {
        self.registrations.push(Registration::closure(id.as_ref(), build));
        self
    }

    /// Registers a type that is built by its `configure`, or by `Default`. An id that is malformed or taken is an error
    /// of [`build`](Self::build); so is a type with neither `configure` nor `Default`.
    #[track_caller]
    pub fn service_of<S: Service>(mut self, id: impl AsRef<str>) -> Self {
        match Registration::of::<S>(id.as_ref()) {
            Ok(registration) => self.registrations.push(registration),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Sets options of any service, discovered or not. Where [`instances`](ServiceOptions::instances) makes several
    /// services, the name of the type stands for all of them, and an id for one; options of one override those for all.
    /// Options override `[defaults]` and the attribute; the service's section in `services.toml`, and every layer above
    /// that, overrides them. If two calls for one service set the same key, the later one counts. An id that does not
    /// exist is an error of [`build`](Self::build).
    pub fn options_of(mut self, id: impl Into<String>, options: ServiceOptions) -> Self {
        self.options.push((id.into(), options));
        self
    }

    /// Makes the start fail when the first `configure` of a service fails, even if the failure would be retried; the
    /// start then stops the services that it started. An outage of the database does not count, nor does a `configure`
    /// that takes longer than 30 s. Default: a service that cannot start does not keep the others from starting; its
    /// health shows why.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Adds a probe: a check of a resource that services use, such as an API or a broker. Services name it in `needs`;
    /// while it fails, their failures do not exhaust `max_failures`, their health names the probe, and its next success
    /// ends their wait for a retry. The registry's database is a probe of its own, named `database`.
    ///
    /// `check` is called at the start, then every `every` (at least 0.5 s), and when a service that needs it fails. A
    /// check has 10 s. The captures of the closure are cloned for each check. An error and a panic mean that the
    /// resource is down.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use service_core::prelude::*;
    /// # async fn ping(_broker: &str) -> std::io::Result<()> { Ok(()) }
    /// let broker = "broker:1883".to_owned();
    /// let builder = ServiceRegistry::builder()
    ///     .probe("broker", Duration::from_secs(10), async move || ping(&broker).await);
    /// ```
    pub fn probe<C, F, E>(mut self, name: impl AsRef<str>, every: Duration, check: C) -> Self
    where
        C: FnOnce() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let name = name.as_ref();
        if !is_name(name) {
            self.problems.push(format!(
                "`{name}` is not the name of a probe: it has 1 to 100 letters, digits and `_`, `-`, `.`, `:`, `/`"
            ));
        } else if name == DATABASE || self.probes.iter().any(|probe| **probe.name() == *name) {
            self.problems.push(format!("there are two probes with the name `{name}`: give one of them another name"));
        }
        self.probes.push(Arc::new(Probe::new(name, every, check)));
        self
    }

    /// Limits how many services run at the same time. A run that waits for its turn is late, not failed: its `timeout`
    /// counts from its start, and turns are taken in the order in which the runs were due. Two kinds of runs do not
    /// count: a `run`, because it lasts until a stop, and a blocking run that has timed out and has not returned yet.
    /// Default: no limit. Zero counts as one.
    ///
    /// With a database, a limit somewhat below the size of the connection pool lets a thousand services share ten
    /// connections.
    pub fn max_concurrent_runs(mut self, runs: usize) -> Self {
        self.max_concurrent_runs = Some(runs.max(1));
        self
    }

    /// Registers everything and starts nothing. Dropping the future registers nothing.
    ///
    /// # Errors
    /// A [`BuildError`] with all mistakes: in the configuration file, in options, in the names passed to `only`,
    /// `except`, `options_of` and `probe`, in the address and the token of the admin interface, duplicate ids (with
    /// both places), unknown dependencies, cycles, and services of `expect_services!` that are not linked. Only a
    /// database URL that can never work is reported alone, before the others. A missing or wrong setting of a service's
    /// own is not an error here: that service fails when it starts.
    pub async fn build(mut self) -> Result<ServiceRegistry> {
        panic::note_places();
        let mut problems = std::mem::take(&mut self.problems);
        let mut registrations = std::mem::take(&mut self.registrations);
        registrations.extend(self.discovered(&mut problems));
        check_expected(&registrations, &mut problems);
        check_ids(&registrations, &mut problems);
        let options = apply_options(&mut registrations, std::mem::take(&mut self.options));

        let inputs = self.take_inputs();
        let requester_id = self.take_requester_id(&inputs);
        let companions = self.build_companions(&inputs, &mut problems);
        let sources = Sources::load(inputs);
        problems.extend(sources.errors().iter().map(ToString::to_string));
        let mut registrations = instances::repeat(registrations, &sources, &mut problems);
        check_names(&registrations, &mut problems);
        apply_options_by_id(&mut registrations, options, &mut problems);

        let extension: Arc<dyn Extension> = match self.extension.take() {
            Some(builder) => builder.build().await?,
            None => Arc::new(NoExtension),
        };
        let shared = self.share(requester_id);
        for builder in inventory::iter::<LeasesBuilder> {
            (builder.install)(&*extension, &shared);
        }
        let probes = self.probes.iter().map(|probe| probe.clone() as Arc<dyn Resource>);
        let resources: Vec<Arc<dyn Resource>> = extension.resource().into_iter().chain(probes).collect();
        warn_of_unknown_sections(&registrations, &sources);
        let services = register_all(registrations, &shared, &sources, &mut problems, |service| {
            let resolved = service.inner.lock().requests.resolved.clone();
            check_resolved(service.id(), &resolved, &*extension, &resources)
        });
        // Two services with the same id may have the same mistakes.
        let mut reported = BTreeSet::new();
        problems.retain(|problem| reported.insert(problem.clone()));
        if !problems.is_empty() {
            return Err(Error::new(BuildError { problems }));
        }
        Ok(self.finish(Services::new(shared, sources, resources), services, extension, companions))
    }

    /// The configuration of the process, with what the builder sets.
    fn take_inputs(&mut self) -> Inputs {
        let mut inputs = self.inputs.take().unwrap_or_else(Inputs::of_process);
        inputs.file = self.config_file.take().or(inputs.file);
        inputs.sets.append(&mut self.sets);
        inputs.sets_for_all.append(&mut self.sets_for_all);
        if self.without_systemd {
            inputs.environment.retain(|(name, _)| name != "NOTIFY_SOCKET");
        }
        inputs
    }

    fn take_requester_id(&mut self, inputs: &Inputs) -> String {
        let system_id = inputs.environment.iter().find(|(name, _)| name == "SYSTEM_ID");
        self.requester_id
            .take()
            .or_else(|| system_id.and_then(|(_, value)| value.to_str().filter(|id| !id.is_empty()).map(str::to_owned)))
            .unwrap_or_else(|| "system".to_owned())
    }

    fn build_companions(&mut self, inputs: &Inputs, problems: &mut Vec<String>) -> Vec<Arc<dyn Companion>> {
        let mut companions: Vec<Arc<dyn Companion>> = Vec::new();
        for companion in inventory::iter::<CompanionBuilder> {
            match (companion.build)(&mut self.companion_settings, &inputs.environment) {
                Ok(companion) => companions.push(companion),
                Err(error) => problems.push(error.to_string()),
            }
        }
        companions
    }

    /// What the services share.
    fn share(&mut self, requester_id: String) -> Arc<Shared> {
        Arc::new(Shared {
            polls: self.clock.is_virtual().then(Polls::default),
            clock: self.clock.clone(),
            requester_id,
            seed: self.seed,
            states: std::mem::take(&mut self.states),
            turns: self.max_concurrent_runs.map(|runs| Arc::new(Semaphore::new(runs.min(Semaphore::MAX_PERMITS)))),
            ..Shared::default()
        })
    }

    /// The registry of these services, which have no mistakes.
    fn finish(
        self,
        registered: Services,
        services: Vec<Arc<RegisteredService>>,
        extension: Arc<dyn Extension>,
        companions: Vec<Arc<dyn Companion>>,
    ) -> ServiceRegistry {
        let registered = Arc::new(registered);
        self.probes.iter().for_each(|probe| probe.attach(&registered));
        for service in &services {
            extension.registered(&registered, &service.inner);
        }
        registered.extend(services);
        let inner = Arc::new(RegistryInner {
            services: registered,
            extension,
            virtual_time: self.virtual_time,
            shutdown_timeout: self.shutdown_timeout.unwrap_or(SHUTDOWN_TIMEOUT),
            strict: self.strict,
            probes: self.probes,
            companions,
            tasks: Mutex::default(),
            home: Home::default(),
            session: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            without_systemd: self.without_systemd,
            listens: AtomicBool::new(false),
        });
        all::add(&inner);
        ServiceRegistry { inner }
    }

    /// Registers everything, starts the enabled services and listens for signals, as [`ServiceRegistry::start_all`]
    /// does.
    ///
    /// If a signal arrives during the start, this returns `Ok` at once, and the shutdown begins when the program calls
    /// [`until_shutdown`](ServiceRegistry::until_shutdown), [`stopping`](ServiceRegistry::stopping) or
    /// [`closed`](ServiceRegistry::closed). Dropping the future stops no service that has started; await it to its end.
    ///
    /// # Errors
    /// As for [`build`](Self::build) and [`ServiceRegistry::start`].
    pub async fn start_all(self) -> Result<ServiceRegistry> {
        let registry = self.build().await?;
        signals::start_listening(&registry).await?;
        Ok(registry)
    }

    /// Returns the annotated services that `only` and `except` select.
    fn discovered(&self, problems: &mut Vec<String>) -> Vec<Registration> {
        if self.without_discovered {
            return Vec::new();
        }
        let found = ServiceRegistry::discovered();
        for id in self.only.iter().flatten().chain(&self.except) {
            if !found.iter().any(|descriptor| descriptor.id == id) {
                let hint = suggest::hint(id, found.iter().map(|descriptor| descriptor.id));
                problems.push(format!("`only` or `except` names `{id}`, but no annotated service has that id{hint}"));
            }
        }
        let chosen = |id: &str| {
            self.only.as_ref().is_none_or(|only| only.iter().any(|o| o == id)) && !self.except.iter().any(|e| e == id)
        };
        let mut chosen: Vec<&Discovered> = inventory::iter::<Discovered>().filter(|found| chosen(found.0.id)).collect();
        chosen.sort_by_key(|found| found.0.id);
        // The attribute makes sure that a discovered service can be built.
        chosen.into_iter().filter_map(Registration::discovered).collect()
    }
}

impl ServiceRegistry {
    /// Registers every annotated service that is linked into the program, and starts the enabled ones;
    /// [`start`](Self::start) says how long it waits.
    ///
    /// From this call on SIGINT and SIGTERM begin a shutdown for callers of [`until_shutdown`](Self::until_shutdown),
    /// [`stopping`](Self::stopping) or [`closed`](Self::closed). A signal during the start ends the wait; the shutdown
    /// begins when one of them is called. If the program calls none of them, nor [`shutdown`](Self::shutdown), the
    /// process ends `shutdown_timeout` after the signal. A second signal ends the process at once. The signal handlers
    /// stay installed for the rest of the process, even after the runtime has ended. A program that handles signals
    /// itself calls [`build`](RegistryBuilder::build) and [`start`](Self::start) instead.
    ///
    /// SIGHUP reads the configuration file again, as [`reload`](Self::reload) does; if standard input is a terminal at
    /// this call, SIGHUP begins a shutdown, as SIGTERM does.
    ///
    /// Under systemd, in a unit with `Type=notify` or `notify-reload`, the registry sends `READY` at the end of the
    /// start, and then `STATUS`, `RELOADING`, `STOPPING` and, if the unit has `WatchdogSec`, `WATCHDOG`.
    ///
    /// Dropping the future stops no service that has started, and the program then has no handle to them: await it to
    /// its end.
    ///
    /// # Errors
    /// A [`BuildError`] with all mistakes, before anything starts, as for [`build`](RegistryBuilder::build). Then as
    /// for [`start`](Self::start): there is no tokio runtime, or the address of the admin interface (`ADMIN_ADDR`) is
    /// in use. A service that cannot start is not an error; its health shows why. If the signal handlers cannot be
    /// installed, that is only a warning.
    pub async fn start_all() -> Result<Self> {
        Self::builder().start_all().await
    }

    /// Returns a builder, to configure the registry before it starts.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }
}

/// Gives options to the services that they name. Returns those that name none.
fn apply_options(
    registrations: &mut [Registration],
    options: Vec<(String, ServiceOptions)>,
) -> Vec<(String, ServiceOptions)> {
    let mut left = Vec::new();
    for (name, options) in options {
        let mut found = false;
        for registration in registrations.iter_mut().filter(|registration| registration.has_name(&name)) {
            found = true;
            registration.add_options(options.clone());
        }
        if !found {
            left.push((name, options));
        }
    }
    left
}

/// Gives the options that are left to the services with these ids.
fn apply_options_by_id(
    registrations: &mut [Registration],
    mut options: Vec<(String, ServiceOptions)>,
    problems: &mut Vec<String>,
) {
    for (name, options) in &options {
        if options.sets(instances::KEY) {
            problems.push(format!(
                "`options_of` sets `instances` of `{name}`: it is for all services of a type, so set it for the type or for the \
                 registered id"
            ));
        }
    }
    // Those of one override those for all.
    options.sort_by_cached_key(|(name, _)| registrations.iter().any(|registration| registration.id == *name));
    for (name, _) in apply_options(registrations, options) {
        let hint = suggest::hint(&name, registrations.iter().map(|registration| registration.id.as_str()));
        problems.push(format!("`options_of` names `{name}`, but no service has that id{hint}"));
    }
}

/// Warns of sections in the configuration that belong to no service of the registry or the program.
fn warn_of_unknown_sections(registrations: &[Registration], sources: &Sources) {
    let names = registrations.iter().flat_map(|registration| [registration.id.as_str(), registration.descriptor.id]);
    let linked = ServiceRegistry::discovered().into_iter().map(|descriptor| descriptor.id);
    for warning in sources.unknown_sections(names.chain(linked)) {
        warn!("{warning}");
    }
}

/// Reads the options of the services, and checks them and their dependencies. Returns the services whose options can be
/// read.
fn register_all(
    registrations: Vec<Registration>,
    shared: &Arc<Shared>,
    sources: &Sources,
    problems: &mut Vec<String>,
    check: impl Fn(&RegisteredService) -> Result<()>,
) -> Vec<Arc<RegisteredService>> {
    // Dependencies on a service whose options are wrong are no further mistakes.
    let (mut services, mut wrong) = (Vec::new(), Vec::new());
    for registration in registrations {
        let names = registration.names();
        match RegisteredService::new(registration, shared, sources) {
            Ok(service) => {
                problems.extend(check(&service).err().iter().flat_map(each));
                services.push(Arc::new(service));
            }
            Err(error) => {
                wrong.extend(names);
                problems.extend(each(&error));
            }
        }
    }
    problems.extend(dependencies::check(&services, &[], &wrong));
    services
}

/// The error of [`RegistryBuilder::build`]: all mistakes that were found. The methods return it inside an [`Error`]:
///
/// ```
/// use service_core::BuildError;
/// use service_core::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let builder = ServiceRegistry::builder().without_discovered();
/// let built = builder.options_of("mailer", ServiceOptions::new()).build().await;
/// let error = built.unwrap_err();
/// let problems = error.find::<BuildError>().map(|error| &error.problems);
/// assert_eq!(problems.map(Vec::len), Some(1));
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the services cannot be started:{}", .problems.iter().map(|problem| format!("\n  - {problem}")).collect::<String>())]
#[non_exhaustive]
pub struct BuildError {
    /// One message for each mistake.
    pub problems: Vec<String>,
}

impl fmt::Debug for RegistryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryBuilder").finish_non_exhaustive()
    }
}
