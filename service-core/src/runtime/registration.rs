//! [`Registration`]: a service as it was passed to the registry. With its options resolved, it becomes a
//! [`RegisteredService`].

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock, Weak};

use crate::log::{self, warn};

use crate::config::options::ServiceOptions;
use crate::config::{ConfigError, KeptValues, Resolved, ServiceDescriptor, Settings, Sources, Target};
use crate::panic::{self, Caught};
use crate::runtime::context::Context;
use crate::runtime::factory::{Building, Factory};
use crate::runtime::fit::{ONLY_ONE, Unfit, fit};
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::labels::Labels;
use crate::runtime::lifecycle::{Discovered, IntoService, Lifecycle, Service};
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::shared::Shared;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// A service before it is registered.
pub(crate) struct Registration {
    pub(crate) id: String,
    pub(crate) descriptor: &'static ServiceDescriptor,
    pub(crate) factory: Factory,
    /// What code set: `options_of` and `Register`.
    pub(crate) options: Option<ServiceOptions>,
    pub(crate) labels: Labels,
    /// The service whose instance this one belongs to.
    pub(crate) parent: Option<Arc<RegisteredService>>,
    /// Its failures do not lower the status of the registry.
    pub(crate) optional: bool,
    /// Its number, from 1, and how many services `instances` makes of one registration.
    pub(crate) instance: (u32, u32),
    /// It was registered while the registry ran: it is one service, whatever `instances` of its type is.
    pub(crate) while_running: bool,
    /// The closure that builds it may read settings, so their keys are not known.
    pub(crate) undeclared_settings: bool,
    pub(crate) place: RegisteredAt,
}

/// Where a service was registered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RegisteredAt {
    Attribute(&'static ServiceDescriptor),
    Call(&'static Location<'static>),
}

impl fmt::Display for RegisteredAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(descriptor) => write!(f, "{}:{}", descriptor.file, descriptor.line),
            Self::Call(location) => write!(f, "{}:{}", location.file(), location.line()),
        }
    }
}

impl Registration {
    #[track_caller]
    pub(crate) fn ready_made<S: Service>(id: &str, service: S) -> Self {
        Self::by_hand::<S>(id, Factory::ReadyMade(Mutex::new(Some(Box::new(service)))))
    }

    #[track_caller]
    pub(crate) fn closure<Form, F>(id: &str, build: F) -> Self
    where
        F: InstanceFn<Form, Out: IntoService>,
    {
        let build = Arc::new(build);
        let build = move |cx: Context| -> Building {
            let building = build.call(cx);
            Box::pin(async move {
                let service = building.await.into_service()?;
                Ok(Box::new(service) as Box<dyn Lifecycle>)
            })
        };
        let registration = Self::by_hand::<<F::Out as IntoService>::Service>(id, Factory::Closure(Arc::new(build)));
        Self { undeclared_settings: F::HAS_CONTEXT, ..registration }
    }

    #[track_caller]
    pub(crate) fn of<S: Service>(id: &str) -> Result<Self> {
        let Some(build) = S::BUILD else {
            return Err(Error::msg(format!(
                "service `{id}` cannot be built: {} has neither `configure` nor `Default`; \
                 add one of them, or register the service with `service` or `service_fn`; in a generic impl, `Default` counts only \
                 if the bounds of the impl imply it, as `M: Default` may do",
                S::DESCRIPTOR.type_name()
            )));
        };
        Ok(Self::by_hand::<S>(id, Factory::Build(build)))
    }

    pub(crate) fn new(id: &str, descriptor: &'static ServiceDescriptor, factory: Factory, place: RegisteredAt) -> Self {
        Self {
            id: id.to_owned(),
            descriptor,
            factory,
            options: None,
            labels: Labels::default(),
            parent: None,
            optional: false,
            instance: (1, 1),
            while_running: false,
            undeclared_settings: false,
            place,
        }
    }

    /// Creates the registration of an annotated service that is linked into the program. `None`: it cannot be built.
    pub(crate) fn discovered(&Discovered(descriptor, build): &Discovered) -> Option<Self> {
        Some(Self::new(descriptor.id, descriptor, Factory::Build(build?), RegisteredAt::Attribute(descriptor)))
    }

    /// Returns the target for which its configuration is resolved.
    pub(crate) fn target(&self) -> Target<'_> {
        let Self { id, descriptor, options, undeclared_settings, .. } = self;
        Target { id, descriptor, code: options.as_ref(), undeclared: *undeclared_settings, kept: None }
    }

    /// Adds options, which override those that were added before.
    pub(crate) fn add_options(&mut self, options: ServiceOptions) {
        self.options = Some(match self.options.take() {
            Some(earlier) => earlier.and(options),
            None => options,
        });
    }

    /// Returns the names that stand for the service: its id, and those that it shares with others.
    pub(crate) fn names(&self) -> Vec<String> {
        let shared = group_names(&self.id, self.descriptor, self.instance);
        std::iter::once(&*self.id).chain(shared.into_iter().flatten()).map(str::to_owned).collect()
    }

    /// Whether this name stands for the service.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.id == name || group_names(&self.id, self.descriptor, self.instance).contains(&Some(name))
    }

    /// Returns a registration for each of `count` services: `packer_1`, `packer_2`, and so on. `None`: there is only
    /// one instance, which is ready-made.
    pub(crate) fn repeat(&self, count: u32) -> Option<Vec<Self>> {
        let one = |number: u32| {
            Some(Self {
                options: self.options.clone(),
                labels: self.labels.clone(),
                parent: self.parent.clone(),
                optional: self.optional,
                instance: (number, count),
                undeclared_settings: self.undeclared_settings,
                ..Self::new(&format!("{}_{number}", self.id), self.descriptor, self.factory.share()?, self.place)
            })
        };
        (1..=count).map(one).collect()
    }

    /// For runs of an instance that a test holds.
    #[allow(dead_code, reason = "for tests")]
    #[track_caller]
    pub(crate) fn of_instance<S: Service>(id: &str) -> Self {
        Self::by_hand::<S>(id, Factory::Borrowed)
    }

    #[track_caller]
    fn by_hand<S: Service>(id: &str, factory: Factory) -> Self {
        Self::new(id, S::DESCRIPTOR, factory, RegisteredAt::Call(Location::caller()))
    }

    /// # Errors
    /// The id is malformed.
    pub(crate) fn check_id(&self) -> Result<()> {
        let mut chars = self.id.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_lowercase());
        let rest = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if first && rest && !self.id.contains("__") && self.id != "defaults" {
            return Ok(());
        }
        Err(Error::msg(format!(
            "`{}` ({}) is not a service id: an id begins with a letter, has only a-z, 0-9 and single `_`, and is not \
             `defaults`",
            self.id, self.place
        )))
    }
}

/// A service with its options resolved.
pub(crate) struct RegisteredService {
    pub(crate) inner: Arc<ServiceInner>,
    pub(crate) descriptor: &'static ServiceDescriptor,
    pub(crate) factory: Factory,
    pub(crate) options: Option<Box<ServiceOptions>>,
    while_running: bool,
    undeclared_settings: bool,
    /// What the file had at the start for the keys that are read only then, if it has changed since.
    kept: OnceLock<Box<KeptValues>>,
    /// The service whose instance this one belongs to.
    parent: Option<Weak<RegisteredService>>,
    pub(crate) place: RegisteredAt,
}

impl RegisteredService {
    /// # Errors
    /// The options are wrong; the error has all mistakes.
    pub(crate) fn new(registration: Registration, shared: &Arc<Shared>, sources: &Sources) -> Result<Self> {
        let resolved = sources.resolve(registration.target(), &[])?;
        let Registration {
            id,
            descriptor,
            factory,
            options,
            labels,
            parent,
            optional,
            instance,
            while_running,
            undeclared_settings,
            place,
        } = registration;
        log::with_labels(labels.text(), || {
            resolved.warnings.iter().for_each(|warning| warn!(service.id = %id, "{warning}"));
        });
        let resolved = fit(resolved, &factory, instance)
            .map_err(|wrong| Error::msg(format!("service `{id}` ({place}): {wrong}")))?;
        let requester_id = options.as_ref().and_then(|options| options.requester_id.as_deref()).map(Box::from);
        let mut inner = ServiceInner::new(Arc::from(id), shared.clone(), requester_id, resolved);
        inner.labels = labels;
        inner.optional = optional;
        inner.instance = instance;
        let parent = parent.as_ref().map(Arc::downgrade);
        Ok(Self {
            inner: Arc::new(inner),
            descriptor,
            factory,
            options: options.map(Box::new),
            while_running,
            undeclared_settings,
            kept: OnceLock::new(),
            parent,
            place,
        })
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.inner.id
    }

    /// Returns the names that stand for this service and others, if it is one of several that `instances` has made: the
    /// id that was registered, and the name of the type, which is the same unless code chose the id.
    pub(crate) fn group_names(&self) -> [Option<&str>; 2] {
        group_names(self.id(), self.descriptor, self.inner.instance)
    }

    /// Returns the service whose instance this one belongs to.
    pub(crate) fn parent(&self) -> Option<Arc<Self>> {
        self.parent.as_ref().and_then(Weak::upgrade)
    }

    /// Returns the target for which its configuration is resolved.
    pub(crate) fn target(&self) -> Target<'_> {
        let (id, code) = (&*self.inner.id, self.options.as_deref());
        let kept = self.kept.get().map(|kept| &**kept);
        Target { id, descriptor: self.descriptor, code, undeclared: self.undeclared_settings, kept }
    }

    /// From now on the values of the file for the keys that are read only at the start are these. Only the first call
    /// counts.
    pub(crate) fn keep(&self, values: KeptValues) {
        let _ = self.kept.set(Box::new(values));
    }

    /// Whether these settings can be read as the type of the service's own settings. Runs the user's code.
    pub(crate) fn check_settings(&self, settings: &Settings) -> Caught<std::result::Result<(), ConfigError>> {
        let own = self.descriptor.settings.as_ref();
        panic::catch(|| own.map_or(Ok(()), |own| (own.check)(settings, self.id())))
    }

    /// Takes over a new configuration. If the service's own settings have changed, a fresh instance is built between
    /// two runs. Returns whether they have; a ready-made instance stays.
    pub(crate) fn reconfigure(&self, resolved: Arc<Resolved>) -> bool {
        let before = self.inner.lock().requests.resolved.clone();
        let changed = !before.settings.same_values(&resolved.settings);
        self.inner.reconfigure(resolved, changed && !self.factory.is_ready_made());
        changed
    }

    /// Returns the configuration without the values of `[defaults]` that do not apply to this service.
    ///
    /// # Errors
    /// Another layer has such a value.
    pub(crate) fn fit(&self, resolved: Arc<Resolved>) -> Result<Arc<Resolved>, Unfit> {
        fit(resolved, &self.factory, self.inner.instance)
    }

    /// As [`fit`](Self::fit), for the configuration that the service would have after a restart of the program.
    ///
    /// # Errors
    /// The program could not start.
    pub(crate) fn fit_after_restart(&self, resolved: Arc<Resolved>) -> Result<Arc<Resolved>, Unfit> {
        let instances = if self.while_running { 1 } else { resolved.options.instances };
        let resolved = fit(resolved, &self.factory, (1, instances))?;
        match resolved.set_by("instances") {
            Some(set) if instances > 1 && self.factory.is_ready_made() => {
                Err(Unfit { set: Box::new(set.clone()), problem: ONLY_ONE })
            }
            _ => Ok(resolved),
        }
    }

    /// Returns the id that was registered: without the number, if `instances` has made several services of it.
    pub(crate) fn registered_id(&self) -> &str {
        self.group_names()[0].unwrap_or(self.id())
    }
}

/// The names that stand for all services that `instances` has made of one registration.
pub(crate) fn group_names<'a>(
    id: &'a str,
    descriptor: &'static ServiceDescriptor,
    (_, of): (u32, u32),
) -> [Option<&'a str>; 2] {
    let registered = id.rsplit_once('_').map(|(registered, _number)| registered).filter(|_| of > 1);
    [registered, registered.map(|_| descriptor.id).filter(|name| Some(*name) != registered)]
}

impl fmt::Debug for RegisteredService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("id", &self.id).field("place", &self.place).finish_non_exhaustive()
    }
}
