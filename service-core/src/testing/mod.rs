//! [`TestBed`]: tests services on virtual time.
//!
//! The runtime only uses tokio's clock. With `#[tokio::test(start_paused = true)]` that clock stands still until every
//! task waits, and then advances to the next moment at which a task is due. So a month passes in seconds, and a test
//! gives the same result every time.
//!
//! A real database does not work with a paused clock by itself; a bed with a database holds the clock
//! (`virtual_clock`).

mod clock_gate;
mod patience;
mod settle;
mod single_run;
mod stall;
mod test_clock;
mod virtual_clock;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::config::{Inputs, SettingValue};
use crate::registry::builder::RegistryBuilder;
use crate::registry::handle::ServiceHandle;
use crate::registry::service_registry::ServiceRegistry;
use crate::runtime::clock::Clock;
use crate::runtime::extension::RealWork;
use crate::runtime::instance_fn::InstanceFn;
use crate::runtime::lifecycle::{BoxFuture, IntoService, Service};
use crate::runtime::registration::Registration;
use crate::runtime::services::IdConflict;
use crate::service::state::ServiceState;
use crate::sync::Mutex;
use crate::testing::clock_gate::{ClockGate, moving_beside};
use crate::testing::stall::{Watched, watch};
use crate::testing::test_clock::TestClock;
use crate::testing::virtual_clock::{HeldClock, HeldTime, TimeBeside};

/// A registry for tests: without discovered services, environment and configuration file, and with jitter from a fixed
/// seed.
///
/// Begin a test with `#[tokio::test(start_paused = true)]`. Without a paused clock, time is real: an hour of
/// [`run_for`](Self::run_for) takes an hour. Services that still run when the test ends are dropped with its runtime,
/// without `cleanup`; call `handle.stop().await` to test `cleanup`.
///
/// ```
/// use std::time::Duration;
///
/// use service_core::prelude::*;
///
/// #[derive(Default)]
/// struct Heartbeat;
///
/// #[service(interval = 30)]
/// impl Heartbeat {
///     async fn update(&mut self) {}
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() {
///     tokio::time::pause();
///     let bed = TestBed::new();
///     let service = bed.start_of::<Heartbeat>().await;
///     bed.run_for(Duration::from_secs(3600)).await;
///     assert_eq!(service.health().runs, 121);
/// }
/// ```
#[derive(Debug)]
pub struct TestBed {
    stage: Mutex<Stage>,
    building: tokio::sync::Mutex<Building>,
    clock: TestClock,
    /// Held if there is a database and the clock is paused.
    held: Mutex<Option<Arc<HeldClock>>>,
    /// All beds of the runtime share it.
    gate: Arc<Mutex<ClockGate>>,
    /// The database, if there is one.
    database: OnceLock<Box<dyn Any + Send + Sync>>,
    /// All beds on this clock have a copy.
    replicas: Arc<()>,
}

/// A bed is configured before its first service starts, and fixed from then on.
#[derive(Debug)]
enum Stage {
    Making(Box<RegistryBuilder>),
    Made(ServiceRegistry),
    /// While the registry is being built.
    Between,
}

/// The registry while it is being built. A caller that is dropped leaves it to the next one.
#[derive(Default)]
struct Building(Option<BoxFuture<'static, crate::Result<ServiceRegistry>>>);

impl fmt::Debug for Building {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Building").finish_non_exhaustive()
    }
}

impl TestBed {
    /// Creates an empty bed. Its wall clock begins at 2026-01-01 00:00 UTC.
    pub fn new() -> Self {
        const NEW_YEAR_2026: Duration = Duration::from_secs(1_767_225_600);
        Self::at(SystemTime::UNIX_EPOCH + NEW_YEAR_2026)
    }

    /// Creates an empty bed whose wall clock begins at this time. It moves with tokio's clock. With a database, the
    /// times in rows are compared with it: `available_at`, `updated_at` for `retain_completed`, claims, and the end of
    /// an override. So insert times relative to it, and not to the clock of the machine.
    pub fn at(wall: impl Into<SystemTime>) -> Self {
        Self::with_clock(TestClock::at(wall.into()), Arc::default())
    }

    fn with_clock(clock: TestClock, replicas: Arc<()>) -> Self {
        let gate = ClockGate::of_this_thread();
        let mut builder = ServiceRegistry::builder();
        builder.inputs = Some(Inputs::default());
        builder.clock = Clock::new(clock.clone());
        builder.seed = Some(0);
        builder.virtual_time = Some(Arc::new(TimeBeside(gate.clone())));
        Self {
            stage: Mutex::new(Stage::Making(Box::new(builder))),
            building: tokio::sync::Mutex::default(),
            clock,
            held: Mutex::default(),
            gate,
            database: OnceLock::new(),
            replicas,
        }
    }

    /// Returns another bed on the same clock.
    pub(crate) fn sibling(&self) -> Self {
        let sibling = Self::with_clock(self.clock.clone(), self.replicas.clone());
        if let Some(clock) = self.held_clock() {
            sibling.hold(clock);
        }
        sibling
    }

    fn hold(&self, clock: Arc<HeldClock>) {
        let time = Arc::new(HeldTime(clock.clone()));
        self.change(|mut builder| {
            builder.virtual_time = Some(time);
            builder
        });
        *self.held.lock() = Some(clock);
    }

    /// Sets the database, once.
    pub(crate) fn set_database(&self, database: Box<dyn Any + Send + Sync>) {
        let _ = self.database.set(database);
    }

    pub(crate) fn database(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.database.get().map(|database| &**database)
    }

    /// Ends all services at once, without `cleanup`. The future waits for their end.
    pub(crate) fn abort(&self) -> impl Future<Output = ()> + use<> {
        let tasks = match &*self.stage.lock() {
            Stage::Made(registry) => registry.abort_services(),
            Stage::Making(_) | Stage::Between => Vec::new(),
        };
        async {
            for task in tasks {
                // The error is that it was aborted.
                let _ = task.await;
            }
        }
    }

    /// Sets the wall clock of the bed, as a time server or an operator does. What is shown or compared as a time of day
    /// follows it: cron schedules, `cx.now()`, `cx.scheduled_for()`, the times in events and in health, those in rows
    /// of a database, and the end of an override. tokio's clock does not change, so intervals, delays, limits and
    /// leases stay as they are. Setting it forward also simulates a machine that was suspended.
    pub async fn set_wall_clock(&self, wall: impl Into<SystemTime>) {
        self.clock.set(wall.into());
    }

    /// Adds a value that services share: `cx.state::<T>()` returns it.
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.with(|builder| builder.state(value))
    }

    /// Sets one key, an option or one of the services' own settings, for every service in the bed; `"id.key"` sets it
    /// for one service. A wrong value, or a wrong key of one service, is a panic of the first start. A key for every
    /// service that looks misspelt is a warning in the log, because another service may have it.
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called.
    #[must_use]
    pub fn set(self, key: &str, value: impl Into<SettingValue>) -> Self {
        self.with(|mut builder| {
            if key.contains('.') {
                return builder.set(key, value);
            }
            builder.sets_for_all.push((key.to_owned(), value.into()));
            builder
        })
    }

    /// Sets the requester id of the services.
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called.
    #[must_use]
    pub fn requester_id(self, id: impl Into<String>) -> Self {
        self.with(|builder| builder.requester_id(id))
    }

    /// Sets the seed of jitter. Default: 0.
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.with(|mut builder| {
            builder.seed = Some(seed);
            builder
        })
    }

    /// Applies any other method of the builder.
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called.
    #[must_use]
    pub fn with(self, change: impl FnOnce(RegistryBuilder) -> RegistryBuilder) -> Self {
        self.change(change);
        self
    }

    /// From now on only the bed lets time move: in [`run_for`](Self::run_for), and while calls on handles are awaited.
    /// Does nothing if tokio's clock is not paused. The closure that it returns is to be called whenever work in real
    /// time begins, by the task that begins it, with whether it is the registry's own work.
    pub(crate) async fn hold_clock(&self) -> Option<impl Fn(bool) + Send + Sync + 'static> {
        let clock = HeldClock::hold_paused();
        // The work belongs to the clock, not the clock to the work.
        let held = clock.as_ref().map(Arc::downgrade);
        if let Some(clock) = clock {
            self.hold(clock);
        }
        held.map(|held| move |is_registrys: bool| _ = held.upgrade().map(|clock| clock.work_begins(is_registrys)))
    }

    /// The clock stands still while this work goes on.
    pub(crate) fn wait_for_work(&self, work: Arc<dyn RealWork>) {
        if let Some(clock) = self.held_clock() {
            clock.wait_for(work);
        }
    }

    fn held_clock(&self) -> Option<Arc<HeldClock>> {
        self.held.lock().clone()
    }

    /// Changes the builder of a bed whose first service has not started.
    pub(crate) fn change(&self, change: impl FnOnce(RegistryBuilder) -> RegistryBuilder) {
        let mut stage = self.stage.lock();
        let Stage::Making(builder) = std::mem::replace(&mut *stage, Stage::Between) else {
            panic!("configure the bed before its first service starts");
        };
        *stage = Stage::Making(Box::new(change(*builder)));
    }

    /// Starts a service that is built by its `configure`, or by `Default`. Its id is that of its attribute; if that is
    /// taken, a number is appended.
    ///
    /// It is one service, whatever its option `instances` is. [`start_all`](Self::start_all) makes as many as that
    /// says.
    ///
    /// Does nothing before it is awaited. Waits as [`ServiceHandle::start`] does: until the instance is built or could
    /// not be built, at most 30 s of virtual time. A start that fails is not an error here: the state and the health of
    /// the handle show it.
    ///
    /// # Panics
    /// The bed or the service is configured wrongly: an unknown key, a wrong option, an unknown dependency, or a type
    /// with neither `configure` nor `Default`. Or the start is refused: the address of the admin interface is in use,
    /// or a shutdown is in progress. Or a service keeps virtual time from moving, as in [`run_for`](Self::run_for);
    /// calls on handles that wait panic then, too.
    #[track_caller]
    pub fn start_of<S: Service>(&self) -> impl Future<Output = ServiceHandle> {
        self.launch::<S>(Registration::of::<S>(S::ID))
    }

    /// Starts a service with a ready-made instance. Waits, and panics, as [`start_of`](Self::start_of) does.
    #[track_caller]
    pub fn start<S: Service>(&self, service: S) -> impl Future<Output = ServiceHandle> {
        self.launch::<S>(Ok(Registration::ready_made(S::ID, service)))
    }

    /// Starts a service that is built by a closure. The closure has one of the forms of
    /// [`RegistryBuilder::service_fn`]. Waits, and panics, as [`start_of`](Self::start_of) does.
    #[track_caller]
    pub fn start_fn<Form, F>(&self, build: F) -> impl Future<Output = ServiceHandle>
    where
        F: InstanceFn<Form, Out: IntoService>,
    {
        let id = <F::Out as IntoService>::Service::ID;
        self.launch::<<F::Out as IntoService>::Service>(Ok(Registration::closure(id, build)))
    }

    /// Starts every annotated service that is linked into the test program, as [`ServiceRegistry::start_all`] does, on
    /// virtual time; and those that [`with`](Self::with) has registered. With `only` and `except` of the builder, some
    /// of them; with `without_discovered`, only those that were registered. A service that cannot start is no error;
    /// its health shows why.
    ///
    /// ```standalone_crate
    /// use std::time::Duration;
    ///
    /// use service_core::prelude::*;
    ///
    /// #[service(interval = "1h")]
    /// async fn hourly_report() {}
    ///
    /// #[tokio::main(flavor = "current_thread")]
    /// async fn main() {
    ///     tokio::time::pause();
    ///     let bed = TestBed::new();
    ///     let services = bed.start_all().await;
    ///     bed.run_for(Duration::from_secs(24 * 3600)).await;
    ///     assert_eq!(services.get("hourly_report").unwrap().health().runs, 25);
    /// }
    /// ```
    ///
    /// # Panics
    /// The registry of the bed exists already: a service was started, or [`run_for`](Self::run_for) or
    /// [`services`](Self::services) was called. Or the options are wrong, ids are taken, dependencies form a cycle, the
    /// address of the admin interface is in use, or the framework's tables cannot be created.
    pub async fn start_all(&self) -> ServiceRegistry {
        let is_open = matches!(&*self.stage.lock(), Stage::Making(_));
        assert!(is_open, "the registry of the bed exists already: call `start_all` first");
        let services = self.registry(true).await;
        if let Err(error) = services.start().await {
            panic!("the services cannot be started: {error:?}");
        }
        services
    }

    /// Waits for the start. The state of the handle shows its result.
    async fn launch<S: Service>(&self, registration: crate::Result<Registration>) -> ServiceHandle {
        let services = self.services().await;
        let registered = registration.and_then(|mut registration| {
            registration.id = free_id::<S>(&services);
            // Types of the same name may stand side by side.
            services.add_unless(registration, |conflict| !matches!(conflict, IdConflict::TypeName(..)))
        });
        let handle = registered.unwrap_or_else(|error| panic!("the service cannot be registered: {error:?}"));
        // A test may be about a service that fails at once: its state shows that. It does not show a refusal.
        if let Err(error) = handle.start().await
            && handle.state() == ServiceState::Created
        {
            panic!("the service cannot be started: {error:?}");
        }
        handle
    }

    /// Returns the registry of the bed. From now on the bed cannot be configured.
    ///
    /// # Panics
    /// The options or the services of the bed are wrong; the message lists all mistakes.
    pub async fn services(&self) -> ServiceRegistry {
        self.registry(false).await
    }

    /// Returns the registry, which is built with or without the annotated services if it does not exist.
    async fn registry(&self, discovers: bool) -> ServiceRegistry {
        let made = || if let Stage::Made(registry) = &*self.stage.lock() { Some(registry.clone()) } else { None };
        if let Some(registry) = made() {
            return registry;
        }
        let mut building = self.building.lock().await;
        if let Some(registry) = made() {
            return registry;
        }
        if let Stage::Making(mut builder) = std::mem::replace(&mut *self.stage.lock(), Stage::Between) {
            builder.without_discovered |= !discovers;
            building.0 = Some(Box::pin(builder.build()));
        }
        let Some(build) = &mut building.0 else { panic!("the bed could not be built") };
        let built = build.await;
        building.0 = None;
        let registry = built.unwrap_or_else(|error| panic!("the bed cannot be built: {error:?}"));
        if let Some(clock) = self.held_clock() {
            clock.add(&registry);
        }
        self.gate.lock().add(&registry.inner.services);
        *self.stage.lock() = Stage::Made(registry.clone());
        registry
    }

    /// Advances time by `duration`. Everything that is due until then, or at that moment, happens.
    ///
    /// Virtual time does not move while blocking code runs. So blocking code must end, or sleep with
    /// [`cx.blocking_sleep`](crate::Context::blocking_sleep). It must not wait for virtual time in another way, or it
    /// waits forever: with `Handle::block_on` of a sleep or of `cx.permit()`, for a message of a task that sleeps, or
    /// in a loop of `std::thread::sleep` until `is_stopping`. Two limits are in real time:
    ///
    /// - A blocking `run` may wait for a socket, so it keeps time from moving for one second only. After that, time
    ///   moves on without it.
    /// - At the end of `run_for`, blocking code that still runs is awaited for about five seconds. Async code that waits
    ///   for another thread, such as in `tokio::fs`, is not awaited there: advance time by one millisecond more.
    ///
    /// # Panics
    /// A service keeps virtual time from moving: it returns `again()` without an end, retries without a delay, has a
    /// run (or a `configure`) that never waits for a time and does not end, or its blocking code has not returned for
    /// 30 s of real time while nothing else happened. It may be a service of another bed of the same runtime.
    pub async fn run_for(&self, duration: Duration) {
        let services = self.services().await;
        let inner = &services.inner;
        let end = tokio::time::sleep(duration);
        // In the end, tasks that are due at this very moment may be behind this one in the queue.
        match self.held_clock() {
            Some(clock) => {
                clock.expect_changes();
                let passing = async {
                    clock.moving(&inner.services, &*inner.extension, end).await;
                    clock.settle(&inner.services, &*inner.extension).await;
                };
                watch(Watched::all(&self.gate), passing).await;
            }
            None => {
                let passing = async {
                    moving_beside(self.gate.clone(), end).await;
                    settle::settle(&inner.services).await;
                };
                watch(Watched::all(&self.gate), passing).await;
            }
        }
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        if let Some(clock) = self.held_clock().filter(|_| Arc::strong_count(&self.replicas) == 1) {
            clock.end();
        }
    }
}

impl Default for TestBed {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the id of the service; if it is taken, with a number.
fn free_id<S: Service>(services: &ServiceRegistry) -> String {
    let taken = |id: &str| !services.inner.services.named(id).is_empty();
    if !taken(S::ID) {
        return S::ID.to_owned();
    }
    let numbered = (2..).map(|n| format!("{}_{n}", S::ID)).find(|id| !taken(id));
    numbered.unwrap_or_else(|| unreachable!("there are more numbers than services"))
}
