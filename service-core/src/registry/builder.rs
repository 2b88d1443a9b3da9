//! [`RegistryBuilder`]: everything that is chosen before the services start, checked all at once.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::log::warn;

use crate::config::options::ServiceOptions;
use crate::config::{ConfigErrors, Inputs, ServiceDescriptor, SettingValue, Sources};
use crate::panic;
use crate::registry::dependencies;
use crate::registry::expect::ExpectedServices;
use crate::registry::home::Home;
use crate::registry::service_registry::{RegistryInner, ServiceRegistry};
use crate::registry::session::SHUTDOWN_TIMEOUT;
use crate::registry::signals;
use crate::runtime::clock::Clock;
use crate::runtime::extension::{Extension, NoExtension, VirtualTime};
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::lifecycle::{BoxFuture, Discovered, IntoService, Service};
use crate::runtime::registration::{Place, RegisteredService, Registration};
use crate::runtime::services::Services;
use crate::runtime::shared::{Shared, SharedStates};
use crate::schedule::{CatchUp, Schedule};
use crate::service::error::{Error, Result};
use crate::suggest::nearest;

/// Chooses what a [`ServiceRegistry`] has and how its services are configured.
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
    without_discovered: bool,
    strict: bool,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
    pub(crate) extension: Option<Box<dyn ExtensionBuilder>>,
    pub(crate) virtual_time: Option<Arc<dyn VirtualTime>>,
}

/// What a feature has been told by the builder's methods, before its extension is made.
pub(crate) trait ExtensionBuilder: Any + Send {
    /// Makes the extension.
    ///
    /// # Errors
    /// It can never work.
    fn build(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Extension>>>;
}

impl RegistryBuilder {
    /// Who the services act as. Default: the environment variable `SYSTEM_ID`, else `system`.
    pub fn requester_id(mut self, id: impl Into<String>) -> Self {
        self.requester_id = Some(id.into());
        self
    }

    /// A value that services share: `cx.state::<T>()`. One of each type; a later one replaces it.
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// How long a shutdown may take over all. Default: 25 s.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = Some(timeout);
        self
    }

    /// The configuration file. Default: the environment variable `SERVICES_CONFIG`, else `services.toml` in the working
    /// directory, where it exists.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_file = Some(path.into());
        self
    }

    /// Sets one key of one service, `"email_sender.batch_size"`; it wins over every other layer. For tests.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<SettingValue>) -> Self {
        self.sets.push((key.into(), value.into()));
        self
    }

    /// Of the annotated services, only these.
    pub fn only<I: IntoIterator<Item = T>, T: AsRef<str>>(mut self, ids: I) -> Self {
        self.only.get_or_insert_default().extend(ids.into_iter().map(|id| id.as_ref().to_owned()));
        self
    }

    /// Of the annotated services, all but these.
    pub fn except<I: IntoIterator<Item = T>, T: AsRef<str>>(mut self, ids: I) -> Self {
        self.except.extend(ids.into_iter().map(|id| id.as_ref().to_owned()));
        self
    }

    /// None of the annotated services.
    pub fn without_discovered(mut self) -> Self {
        self.without_discovered = true;
        self
    }

    /// A ready-made instance. It is never silently replaced: when it panics the service has failed.
    #[track_caller]
    pub fn service<S: Service>(mut self, id: impl AsRef<str>, service: S) -> Self {
        self.registrations.push(Registration::ready_made(id.as_ref(), service));
        self
    }

    /// A closure that builds instances: `|| S`, `|| Result<S, E>` or `async |cx: &Context| …` (the type of `cx` is written),
    /// which returns either. What an async closure captures is cloned for each instance.
    #[track_caller]
    pub fn service_fn<Form, F>(mut self, id: impl AsRef<str>, build: F) -> Self
    where
        F: InstanceFn<Form, Out: IntoService>,
    {
        self.registrations.push(Registration::closure(id.as_ref(), build));
        self
    }

    /// A type that is built by its `configure`, or `Default`.
    #[track_caller]
    pub fn service_of<S: Service>(mut self, id: impl AsRef<str>) -> Self {
        match Registration::of::<S>(id.as_ref()) {
            Ok(registration) => self.registrations.push(registration),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// Options of any service, discovered ones too. They override its attribute and `[defaults]`, and its section in
    /// `services.toml` overrides them. Given twice for one service, the later call wins where both set a key.
    pub fn options_of(mut self, id: impl Into<String>, options: ServiceOptions) -> Self {
        self.options.push((id.into(), options));
        self
    }

    /// Makes the start fail, and stop what it started, when a first `configure` fails, also where the failure would be
    /// retried. An outage of the database is no such failure, nor is a `configure` that takes longer than 30 s.
    /// Default: a service that cannot start keeps no other from starting, and its health says why.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Registers everything and starts nothing.
    ///
    /// # Errors
    /// Everything that is wrong, at once: the configuration file, options, ids that are taken (both places are named),
    /// unknown dependencies and cycles. Only a database URL that can never work is told alone.
    pub async fn build(mut self) -> Result<ServiceRegistry> {
        panic::note_places();
        let mut problems = std::mem::take(&mut self.problems);
        let mut registrations = std::mem::take(&mut self.registrations);
        registrations.extend(self.discovered(&mut problems));
        check_expected(&mut problems);
        check_ids(&registrations, &mut problems);
        check_names(&registrations, &mut problems);
        apply_options(&mut registrations, std::mem::take(&mut self.options), &mut problems);

        let mut inputs = self.inputs.take().unwrap_or_else(Inputs::of_process);
        inputs.file = self.config_file.take().or(inputs.file);
        inputs.sets.append(&mut self.sets);
        inputs.sets_for_all.append(&mut self.sets_for_all);
        let system_id = inputs.environment.iter().find(|(name, _)| name == "SYSTEM_ID");
        let requester_id = self
            .requester_id
            .or_else(|| system_id.and_then(|(_, value)| value.to_str().map(str::to_owned)))
            .unwrap_or_else(|| "system".to_owned());
        let sources = Sources::load(inputs);
        problems.extend(sources.errors().iter().map(ToString::to_string));

        let extension: Arc<dyn Extension> = match self.extension {
            Some(builder) => builder.build().await?,
            None => Arc::new(NoExtension),
        };
        let shared = Arc::new(Shared {
            clock: self.clock,
            requester_id,
            seed: self.seed,
            states: self.states,
            ..Shared::default()
        });
        let ids: Vec<String> = registrations.iter().map(|registration| registration.id.clone()).collect();
        let type_names: Vec<&str> = registrations.iter().map(|registration| registration.descriptor.id).collect();
        let (mut services, mut wrong) = (Vec::new(), Vec::new());
        for (registration, id) in registrations.into_iter().zip(&ids) {
            let checked = |service: RegisteredService| check_catch_up(&service, &*extension).map(|()| service);
            match RegisteredService::new(registration, &shared, &sources).and_then(checked) {
                Ok(service) => services.push(Arc::new(service)),
                Err(error) => {
                    wrong.push(id.as_str());
                    problems.extend(each(&error));
                }
            }
        }
        let linked = ServiceRegistry::discovered().into_iter().map(|descriptor| descriptor.id);
        for warning in sources.unknown_sections(ids.iter().map(String::as_str).chain(type_names).chain(linked)) {
            warn!("{warning}");
        }
        problems.extend(dependencies::check(&services, &[], &wrong));
        // Two services of one id may share their mistakes, too.
        let mut reported = BTreeSet::new();
        problems.retain(|problem| reported.insert(problem.clone()));
        if !problems.is_empty() {
            return Err(Error::new(BuildError { problems }));
        }
        let all = Arc::new(Services::new(shared, sources));
        for service in &services {
            extension.registered(&all, &service.inner);
        }
        all.extend(services);
        let inner = RegistryInner {
            services: all,
            extension,
            virtual_time: self.virtual_time,
            shutdown_timeout: self.shutdown_timeout.unwrap_or(SHUTDOWN_TIMEOUT),
            strict: self.strict,
            home: Home::default(),
            session: Mutex::default(),
        };
        Ok(ServiceRegistry { inner: Arc::new(inner) })
    }

    /// Registers everything, starts what is enabled and listens to signals, as [`ServiceRegistry::start_all`] does.
    ///
    /// # Errors
    /// As for [`build`](Self::build). A service that cannot start is no error; its health says why.
    pub async fn start_all(self) -> Result<ServiceRegistry> {
        let registry = self.build().await?;
        signals::start_listening(&registry).await?;
        Ok(registry)
    }

    /// The annotated services that were chosen.
    fn discovered(&self, problems: &mut Vec<String>) -> Vec<Registration> {
        if self.without_discovered {
            return Vec::new();
        }
        let found = ServiceRegistry::discovered();
        for id in self.only.iter().flatten().chain(&self.except) {
            if !found.iter().any(|descriptor| descriptor.id == id) {
                let hint = nearest(id, found.iter().map(|descriptor| descriptor.id))
                    .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
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
    /// Registers every annotated service that is linked into the program, and starts those that are enabled; see
    /// [`start`](Self::start) for how long it waits.
    ///
    /// From here on SIGINT and SIGTERM start a shutdown, for whoever waits in [`until_shutdown`](Self::until_shutdown): one
    /// that comes earlier cuts the wait short and is found there. Where the program neither waits there nor calls
    /// [`shutdown`](Self::shutdown), a signal ends the process after `shutdown_timeout`, and a second one at once. As
    /// tokio's do, the handlers stay for the rest of the process, also when this runtime is gone. A program that does not
    /// want that calls [`build`](RegistryBuilder::build) and [`start`](Self::start).
    ///
    /// # Errors
    /// Wrong options, duplicate ids and dependency cycles: all of them, before anything starts. A service that cannot start
    /// is no error; its health says why.
    pub async fn start_all() -> Result<Self> {
        Self::builder().start_all().await
    }

    /// A registry with choices.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }
}

/// `catch_up` needs something that remembers the last fire.
pub(super) fn check_catch_up(service: &RegisteredService, extension: &dyn Extension) -> Result<()> {
    let resolved = service.inner.lock().requests.resolved.clone();
    match &resolved.options.schedule {
        Schedule::Cron(cron) if cron.catch_up != CatchUp::None && !extension.remembers_fires() => {}
        _ => return Ok(()),
    }
    let place = resolved.provenance.iter().find(|set| set.key == "catch_up").map_or("", |set| &set.place);
    Err(Error::msg(format!(
        "service `{}`: `catch_up` ({place}) needs a database that remembers the last fire; give the builder one \
         with `.database` or `.database_url`, or leave `catch_up` out",
        service.id()
    )))
}

fn apply_options(
    registrations: &mut [Registration],
    options: Vec<(String, ServiceOptions)>,
    problems: &mut Vec<String>,
) {
    for (id, options) in options {
        match registrations.iter_mut().find(|registration| registration.id == id) {
            Some(registration) => {
                registration.options = Some(match registration.options.take() {
                    Some(earlier) => earlier.and(options),
                    None => options,
                });
            }
            None => {
                let hint = nearest(&id, registrations.iter().map(|registration| registration.id.as_str()))
                    .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
                problems.push(format!("`options_of` names `{id}`, but no service has that id{hint}"));
            }
        }
    }
}

/// The mistakes in one service's options, one by one.
fn each(error: &Error) -> Vec<String> {
    match error.find::<ConfigErrors>() {
        Some(errors) => errors.iter().map(ToString::to_string).collect(),
        None => vec![error.to_string()],
    }
}

fn check_ids(registrations: &[Registration], problems: &mut Vec<String>) {
    let mut first: BTreeMap<&str, &Registration> = BTreeMap::new();
    for service in registrations {
        if let Err(error) = service.check_id() {
            problems.push(error.to_string());
        }
        if let Some(earlier) = first.get(service.id.as_str()) {
            problems.push(format!(
                "two services have the id `{}`: {} ({}) and {} ({}); give one of them a `name` or an id of its own, \
                 or leave the annotated one out with `discover = false` or `.except`",
                service.id,
                earlier.descriptor.type_name(),
                earlier.place,
                service.descriptor.type_name(),
                service.place
            ));
        } else {
            first.insert(&service.id, service);
        }
    }
}

/// No id may be the name of another type: the section of that name would configure both.
fn check_names(registrations: &[Registration], problems: &mut Vec<String>) {
    let types: BTreeMap<&str, &'static ServiceDescriptor> =
        registrations.iter().map(|service| (service.descriptor.id, service.descriptor)).collect();
    for Registration { id, descriptor, place, .. } in registrations {
        if let Some(other) = types.get(id.as_str()).filter(|other| !std::ptr::eq(**other, *descriptor)) {
            problems.push(name_clash(id, descriptor, *place, other));
        }
    }
}

/// What is wrong where the id of a service is the name of another type.
pub(crate) fn name_clash(id: &str, of: &ServiceDescriptor, place: Place, other: &ServiceDescriptor) -> String {
    format!(
        "service `{id}` ({}, {place}): `{id}` is the name of another registered type, {} ({}), and a section of that name \
         would configure both; give the service another id, or the type another `name`",
        of.type_name(),
        other.type_name(),
        format_args!("{}:{}", other.file, other.line),
    )
}

/// What `expect_services!` names must have been linked.
fn check_expected(problems: &mut Vec<String>) {
    let found = ServiceRegistry::discovered();
    for expected in inventory::iter::<ExpectedServices>() {
        let missing: Vec<&str> =
            expected.ids.iter().copied().filter(|id| !found.iter().any(|descriptor| descriptor.id == *id)).collect();
        if !missing.is_empty() {
            problems.push(format!(
                "{}:{} expects services that are not linked into this program: {}; the linker drops a crate that nothing \
                 refers to: write `use that_crate as _;` in main.rs",
                expected.file,
                expected.line,
                missing.join(", ")
            ));
        }
    }
}

/// Everything that keeps a registry from being built.
#[derive(Debug, thiserror::Error)]
#[error("the services cannot be started:{}", .problems.iter().map(|problem| format!("\n  - {problem}")).collect::<String>())]
#[non_exhaustive]
pub struct BuildError {
    /// Each of them.
    pub problems: Vec<String>,
}

impl fmt::Debug for RegistryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryBuilder").finish_non_exhaustive()
    }
}
