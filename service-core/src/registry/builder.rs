//! [`RegistryBuilder`]: everything that is chosen before the services start, checked all at once.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::warn;

use crate::config::options::ServiceOptions;
use crate::config::{ConfigErrors, Inputs, SettingValue, Sources};
use crate::registry::expect::ExpectedServices;
use crate::registry::{ServiceRegistry, check_dependencies};
use crate::runtime::clock::Clock;
use crate::runtime::entry::{Entry, Factory};
use crate::runtime::lifecycle::{Service, ServiceDescriptor};
use crate::runtime::shared::Hub;
use crate::schedule::{CatchUp, Schedule};
use crate::service::error::{Error, Result};

/// Stays under the 30 s after which Kubernetes kills a pod.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

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
    planned: Vec<Planned>,
    problems: Vec<String>,
    states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    pub(crate) inputs: Option<Inputs>,
    config_file: Option<PathBuf>,
    sets: Vec<(String, SettingValue)>,
    pub(crate) sets_for_all: Vec<(String, SettingValue)>,
    requester_id: Option<String>,
    shutdown_timeout: Option<Duration>,
    only: Option<Vec<String>>,
    except: Vec<String>,
    without_discovered: bool,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
    pub(crate) clock_is_held: bool,
    #[cfg(feature = "database")]
    pub(crate) database: crate::database::DatabaseSource,
}

/// A service that is to be registered.
pub(crate) struct Planned {
    id: String,
    descriptor: &'static ServiceDescriptor,
    factory: Factory,
    options: Option<ServiceOptions>,
    place: Place,
}

/// Where a service was registered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Attribute(&'static ServiceDescriptor),
    Call(&'static Location<'static>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(descriptor) => write!(f, "{}:{}", descriptor.file, descriptor.line),
            Self::Call(location) => write!(f, "{}:{}", location.file(), location.line()),
        }
    }
}

impl Planned {
    #[track_caller]
    pub(crate) fn ready_made<S: Service>(id: &str, service: S, options: Option<ServiceOptions>) -> Self {
        Self::by_hand::<S>(id, Factory::ReadyMade(Box::new(Mutex::new(Some(Box::new(service))))), options)
    }

    #[track_caller]
    pub(crate) fn closure<S: Service>(id: &str, build: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self::by_hand::<S>(id, Factory::Closure(Arc::new(move || Box::new(build()))), None)
    }

    #[track_caller]
    pub(crate) fn of<S: Service>(id: &str) -> Result<Self> {
        let Some(build) = S::DESCRIPTOR.build else {
            return Err(Error::msg(format!(
                "service `{id}` cannot be built: {} has neither `configure` nor `Default`; \
                 add one of them, or hand over an instance with `service` or `service_fn`",
                S::DESCRIPTOR.type_name()
            )));
        };
        Ok(Self::by_hand::<S>(id, Factory::Build(build), None))
    }

    /// For one run without a registry.
    #[cfg(feature = "testing")]
    pub(crate) fn without_instance<S: Service>(id: &str) -> Self {
        Self::by_hand::<S>(id, Factory::ReadyMade(Box::default()), None)
    }

    #[track_caller]
    fn by_hand<S: Service>(id: &str, factory: Factory, options: Option<ServiceOptions>) -> Self {
        let place = Place::Call(Location::caller());
        Self { id: id.to_owned(), descriptor: S::DESCRIPTOR, factory, options, place }
    }

    pub(crate) fn check_id(&self) -> Result<()> {
        let mut chars = self.id.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_lowercase());
        let rest = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if first && rest && !self.id.contains("__") && self.id != "defaults" {
            return Ok(());
        }
        Err(Error::msg(format!(
            "`{}` ({}) is no service id: one begins with a letter, has only a-z, 0-9 and single `_`, and is not `defaults`",
            self.id, self.place
        )))
    }

    pub(crate) fn entry(self, hub: &Arc<Hub>, sources: &Sources) -> Result<Entry> {
        let resolved = sources.resolve(&self.id, Some(self.descriptor), self.options.as_ref(), &[])?;
        for warning in &resolved.warnings {
            warn!(service.id = %self.id, "{warning}");
        }
        let options = &resolved.options;
        #[cfg(feature = "database")]
        let has_database = hub.database.is_some();
        #[cfg(not(feature = "database"))]
        let has_database = false;
        if let Schedule::Cron(cron) = &options.schedule
            && cron.catch_up != CatchUp::None
            && !has_database
        {
            let place = resolved.provenance.iter().find(|set| set.key == "catch_up").map_or("", |set| &set.place);
            return Err(Error::msg(format!(
                "service `{}`: `catch_up` ({place}) needs a database that remembers the last fire; give the builder one \
                 with `.database` or `.database_url`, or leave `catch_up` out",
                self.id
            )));
        }
        let id = Arc::from(self.id);
        Ok(Entry::new(id, self.descriptor, self.place, self.factory, self.options.map(Box::new), resolved, hub.clone()))
    }
}

impl RegistryBuilder {
    /// Who the services act as. Default: the environment variable `SYSTEM_ID`, else `system`.
    pub fn requester_id(mut self, id: impl Into<String>) -> Self {
        self.requester_id = Some(id.into());
        self
    }

    /// A value that services share: `cx.state::<T>()`. One of each type; a later one replaces it.
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(TypeId::of::<T>(), Arc::new(value));
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
        self.planned.push(Planned::ready_made(id.as_ref(), service, None));
        self
    }

    /// A closure that builds instances.
    #[track_caller]
    pub fn service_fn<S: Service>(
        mut self,
        id: impl AsRef<str>,
        build: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        self.planned.push(Planned::closure(id.as_ref(), build));
        self
    }

    /// A type that is built by its `configure`, or `Default`.
    #[track_caller]
    pub fn service_of<S: Service>(mut self, id: impl AsRef<str>) -> Self {
        match Planned::of::<S>(id.as_ref()) {
            Ok(planned) => self.planned.push(planned),
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }

    /// A ready-made instance with options of its own, which stand at the attribute's place among the layers.
    #[track_caller]
    pub fn service_with<S: Service>(mut self, id: impl AsRef<str>, service: S, options: ServiceOptions) -> Self {
        self.planned.push(Planned::ready_made(id.as_ref(), service, Some(options)));
        self
    }

    /// A database connection of the application's own. A pool that its services use up cannot be told from a database that is
    /// away; with [`database_url`](Self::database_url) it can.
    #[cfg(feature = "database")]
    pub fn database(mut self, db: sea_orm::DatabaseConnection) -> Self {
        self.database.connection = Some(db);
        self
    }

    /// A database that the registry connects to by itself, such as `sqlite://app.db` or `postgres://…`. It may be away: services
    /// that need it wait for it, and health says so. Beside the services' pool the registry keeps two connections of its own.
    #[cfg(feature = "database")]
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database.url = Some(url.into());
        self
    }

    /// Whether the framework's tables are created at start. Default: `true`.
    #[cfg(feature = "database")]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.database.skip_migration = !migrate;
        self
    }

    /// Registers everything and starts nothing.
    ///
    /// # Errors
    /// Everything that is wrong, at once: the configuration file, options, ids that are taken (both places are named),
    /// unknown dependencies and cycles. Only a database URL that can never work is told alone.
    pub async fn build(mut self) -> Result<ServiceRegistry> {
        let mut problems = std::mem::take(&mut self.problems);
        let mut planned = std::mem::take(&mut self.planned);
        planned.extend(self.discovered(&mut problems));
        check_expected(&mut problems);
        check_ids(&planned, &mut problems);

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

        #[cfg(feature = "database")]
        let (database, presence) = self.database.open().await?;
        let hub = Hub {
            clock: self.clock,
            requester_id,
            seed: self.seed,
            clock_is_held: self.clock_is_held,
            states: self.states,
            #[cfg(feature = "database")]
            database,
            #[cfg(feature = "database")]
            presence,
            ..Hub::default()
        };
        let registry = ServiceRegistry::new(hub, sources, self.shutdown_timeout.unwrap_or(SHUTDOWN_TIMEOUT));
        let (hub, sources) = (&registry.inner.hub, &registry.inner.sources);
        let ids: Vec<String> = planned.iter().map(|planned| planned.id.clone()).collect();
        let (mut entries, mut wrong) = (Vec::new(), Vec::new());
        for (planned, id) in planned.into_iter().zip(&ids) {
            match planned.entry(hub, sources) {
                Ok(entry) => entries.push(Arc::new(entry)),
                Err(error) => {
                    wrong.push(id.as_str());
                    problems.extend(each(&error));
                }
            }
        }
        for warning in sources.unknown_sections(ids.iter().map(String::as_str)) {
            warn!("{warning}");
        }
        problems.extend(check_dependencies(&entries, &[], &wrong));
        // Two services of one id may share their mistakes, too.
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(problem.clone()));
        if !problems.is_empty() {
            return Err(Error::new(BuildError { problems }));
        }
        registry.add_all(entries);
        Ok(registry)
    }

    /// Registers everything, starts what is enabled and listens to signals, as [`ServiceRegistry::start_all`] does.
    ///
    /// # Errors
    /// As for [`build`](Self::build). A service that cannot start is no error; its health says why.
    pub async fn start_all(self) -> Result<ServiceRegistry> {
        let registry = self.build().await?;
        crate::registry::signals::start_listening(&registry).await?;
        Ok(registry)
    }

    /// The annotated services that were chosen.
    fn discovered(&self, problems: &mut Vec<String>) -> Vec<Planned> {
        if self.without_discovered {
            return Vec::new();
        }
        let found = ServiceRegistry::discovered();
        for id in self.only.iter().flatten().chain(&self.except) {
            if !found.iter().any(|descriptor| descriptor.id == id) {
                let hint = crate::suggest::nearest(id, found.iter().map(|descriptor| descriptor.id))
                    .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
                problems.push(format!("`only` or `except` names `{id}`, but no annotated service has that id{hint}"));
            }
        }
        let chosen = |id: &str| {
            self.only.as_ref().is_none_or(|only| only.iter().any(|o| o == id)) && !self.except.iter().any(|e| e == id)
        };
        found
            .into_iter()
            .filter(|descriptor| chosen(descriptor.id))
            .filter_map(|descriptor| {
                // The attribute makes sure that a discovered service can be built.
                let factory = Factory::Build(descriptor.build?);
                let (id, place) = (descriptor.id.to_owned(), Place::Attribute(descriptor));
                Some(Planned { id, descriptor, factory, options: None, place })
            })
            .collect()
    }
}

/// The mistakes in one service's options, one by one.
fn each(error: &Error) -> Vec<String> {
    match error.find::<ConfigErrors>() {
        Some(errors) => errors.iter().map(ToString::to_string).collect(),
        None => vec![error.to_string()],
    }
}

fn check_ids(planned: &[Planned], problems: &mut Vec<String>) {
    let mut first: BTreeMap<&str, &Planned> = BTreeMap::new();
    for service in planned {
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
