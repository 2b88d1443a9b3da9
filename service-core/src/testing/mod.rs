//! [`TestBed`]: services under test, on virtual time.
//!
//! All of the runtime is on tokio's clock. Under `#[tokio::test(start_paused = true)]` that clock stands still until
//! every task waits, and then leaps to the next moment at which one is due: a month passes in seconds, and every test
//! gives the same answer every time.
//!
//! A real database and a paused clock do not mix by themselves; a bed that is given a database holds the clock (`held`).

pub(crate) mod virtual_clock;

use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::{Inputs, SettingValue};
use crate::panic::{self, Caught};
use crate::registry::ServiceRegistry;
use crate::registry::builder::RegistryBuilder;
use crate::registry::handle::ServiceHandle;
use crate::runtime::clock::Clock;
use crate::runtime::context::Context;
use crate::runtime::lifecycle::Service;
use crate::service::error::Error;
use crate::service::outcome::{Outcome, RunReport};

/// A registry for tests: no discovered services, no environment and no configuration file, jitter from a fixed seed.
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
    /// Where there is a database and the clock is paused.
    hold: Mutex<Option<virtual_clock::Hold>>,
}

/// A bed is made before its first service starts, and fixed from then on.
#[derive(Debug)]
enum Stage {
    Making(Box<RegistryBuilder>),
    Made(ServiceRegistry),
    /// While the registry is being built.
    Between,
}

impl TestBed {
    /// A bed with nothing in it. Its wall clock begins at 2026-01-01 00:00 UTC.
    pub fn new() -> Self {
        const NEW_YEAR_2026: Duration = Duration::from_secs(1_767_225_600);
        Self::at(SystemTime::UNIX_EPOCH + NEW_YEAR_2026)
    }

    /// A bed whose wall clock begins at this moment and moves with tokio's clock.
    pub fn at(wall: impl Into<SystemTime>) -> Self {
        let mut builder = ServiceRegistry::builder().without_discovered();
        builder.inputs = Some(Inputs::default());
        builder.clock = Clock::fixed(wall.into(), Instant::now());
        builder.seed = Some(0);
        Self { stage: Mutex::new(Stage::Making(Box::new(builder))), hold: Mutex::default() }
    }

    /// Sets the wall clock of the running bed, as a time server or an operator would; tokio's clock, on which everything
    /// but cron waits, goes on as it was. Forward, it is also what a machine sees that was suspended.
    pub async fn set_wall_clock(&self, wall: impl Into<SystemTime>) {
        self.services().await.inner.hub.clock.set(wall.into());
    }

    /// A value that services share: `cx.state::<T>()`.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.with(|builder| builder.state(value))
    }

    /// Sets one key, of an attribute's kind or a service's own, for every service in the bed; or `"id.key"` for one.
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

    /// Who the services act as.
    #[must_use]
    pub fn requester_id(self, id: impl Into<String>) -> Self {
        self.with(|builder| builder.requester_id(id))
    }

    /// Makes jitter another one. Default: 0.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.with(|mut builder| {
            builder.seed = Some(seed);
            builder
        })
    }

    /// Anything else that the builder has.
    #[must_use]
    pub fn with(self, change: impl FnOnce(RegistryBuilder) -> RegistryBuilder) -> Self {
        let stage = self.stage.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Stage::Making(builder) = stage else {
            panic!("the bed is made before its first service is started");
        };
        Self { stage: Mutex::new(Stage::Making(Box::new(change(*builder)))), hold: self.hold }
    }

    /// Gives the bed an SQLite database in memory, with the framework's tables, and returns it. From here on the bed holds
    /// a paused clock: it moves in [`run_for`](Self::run_for) and while calls on handles are awaited, and nowhere else.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(&self) -> sea_orm::DatabaseConnection {
        self.database_url("sqlite::memory:").await
    }

    /// As `sqlite`, with the database at this URL.
    #[cfg(feature = "database")]
    pub async fn database_url(&self, url: impl AsRef<str>) -> sea_orm::DatabaseConnection {
        let hold = virtual_clock::Hold::new().await;
        let is_held = hold.is_some();
        *self.hold.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = hold;
        let db = crate::database::connect(url.as_ref()).await.unwrap_or_else(|error| panic!("no database: {error:?}"));
        let stage = std::mem::replace(&mut *self.lock(), Stage::Between);
        let Stage::Making(mut builder) = stage else {
            panic!("the bed is given its database before its first service is started");
        };
        builder.clock_is_held = is_held;
        *self.lock() = Stage::Making(Box::new(builder.database(db.clone())));
        db
    }

    /// Starts a service that is built by its `configure`, or `Default`, under the id of its attribute (and, where that is
    /// taken, a number).
    pub async fn start_of<S: Service>(&self) -> ServiceHandle {
        let services = self.services().await;
        let id = free_id::<S>(&services);
        self.launch(services.register_of::<S>(&id).await).await
    }

    /// Starts a ready-made instance.
    pub async fn start<S: Service>(&self, service: S) -> ServiceHandle {
        let services = self.services().await;
        let id = free_id::<S>(&services);
        self.launch(services.register(&id, service).await).await
    }

    /// Starts a service that is built by a closure.
    pub async fn start_fn<S: Service>(&self, build: impl Fn() -> S + Send + Sync + 'static) -> ServiceHandle {
        let services = self.services().await;
        let id = free_id::<S>(&services);
        self.launch(services.register_fn(&id, build).await).await
    }

    /// Waits as long as the start does; what comes of it, the handle's state says.
    async fn launch(&self, registered: crate::Result<ServiceHandle>) -> ServiceHandle {
        let handle = registered.unwrap_or_else(|error| panic!("the service cannot be registered: {error:?}"));
        // A service that fails at once is a thing to test.
        let _ = handle.start().await;
        handle
    }

    /// The registry of the bed. From here on the bed is made.
    pub async fn services(&self) -> ServiceRegistry {
        let stage = std::mem::replace(&mut *self.lock(), Stage::Between);
        let registry = match stage {
            Stage::Made(registry) => registry,
            Stage::Making(builder) => {
                builder.build().await.unwrap_or_else(|error| panic!("the bed cannot be made: {error:?}"))
            }
            Stage::Between => panic!("the bed is being made by another task"),
        };
        *self.lock() = Stage::Made(registry.clone());
        registry
    }

    /// Lets this much time pass, and everything happen that is due until then and at that moment.
    pub async fn run_for(&self, duration: Duration) {
        let services = self.services().await;
        if services.inner.hub.clock_is_held {
            return virtual_clock::run_for(&services, duration).await;
        }
        tokio::time::sleep(duration).await;
        // What is due at this very moment may stand behind this task in the queue.
        for _ in 0..10_000 {
            if !services.inner.hub.drivers.are_behind() {
                break;
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    /// One run of an instance, without a loop around it: no schedule, no retry, no timeout.
    pub async fn update<S: Service>(&self, service: &mut S) -> RunReport {
        let services = self.services().await;
        let id = free_id::<S>(&services);
        let planned = crate::registry::builder::Planned::without_instance::<S>(&id);
        let entry = planned
            .entry(&services.inner.hub, &services.inner.sources)
            .unwrap_or_else(|error| panic!("the service cannot be configured: {error:?}"));
        let cx = Context { entry: entry.into(), registry: services.clone(), life: 0, run: 1 };
        let started = Instant::now();
        let run = async {
            let result = if service.__shape().blocking_update {
                update_blocking(service, &cx)
            } else {
                let mut update = service.__update(&cx);
                std::future::poll_fn(|task| match panic::catch(|| update.as_mut().poll(task)) {
                    Caught::Returned(poll) => poll,
                    Caught::Panicked(message) => Poll::Ready(Err(Error::msg(format!("panicked: {message}")))),
                })
                .await
            };
            // What the run left to settle in the database is settled, as after any run.
            #[cfg(feature = "database")]
            if let Some(access) = cx.entry.has_unsettled() {
                let why = result.as_ref().err().map(|error| format!("{error:#}"));
                access
                    .settle(why.as_deref())
                    .await
                    .unwrap_or_else(|error| panic!("the run cannot be settled in the database: {error:?}"));
            }
            result
        };
        let result = if services.inner.hub.clock_is_held { virtual_clock::stepping(run).await } else { run.await };
        let duration = started.elapsed();
        match result {
            Ok(outcome) => RunReport { outcome, error: None, duration },
            Err(error) => RunReport { outcome: Outcome::idle(), error: Some(error), duration },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for TestBed {
    fn default() -> Self {
        Self::new()
    }
}

/// Off the async threads, as in production: there such code may block on the runtime, and here, too.
fn update_blocking<S: Service>(service: &mut S, cx: &Context) -> crate::Result<Outcome> {
    let runtime = tokio::runtime::Handle::current();
    let ran = std::thread::scope(|scope| {
        let run = || {
            let _inside = runtime.enter();
            panic::catch(|| service.__update_blocking(cx))
        };
        scope.spawn(run).join()
    });
    match ran {
        Ok(Caught::Returned(result)) => result,
        Ok(Caught::Panicked(message)) => Err(Error::msg(format!("panicked: {message}"))),
        Err(_) => Err(Error::msg("panicked")),
    }
}

/// The service's id, with a number where it is taken.
fn free_id<S: Service>(services: &ServiceRegistry) -> String {
    let taken = |id: &str| services.get(id).is_some();
    if !taken(S::ID) {
        return S::ID.to_owned();
    }
    let numbered = (2..).map(|n| format!("{}_{n}", S::ID)).find(|id| !taken(id));
    numbered.unwrap_or_else(|| unreachable!("there are more numbers than services"))
}
