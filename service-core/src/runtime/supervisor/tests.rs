//! The loop under test, without a registry: services whose methods are closures, and a log of their calls.
//!
//! Tests use virtual time if the clock can be paused. Futures that are always ready, and deadlocks, need real time and
//! real threads: [`on_each_runtime`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Exit, Supervisor, supervise};
use crate::config::options::Options;
use crate::config::{Inputs, Sources};
use crate::runtime::context::{Context, Nominal};
use crate::runtime::extension::{Extension, NoExtension};
use crate::runtime::factory::Factory;
use crate::runtime::fixtures::DESCRIPTOR;
use crate::runtime::lifecycle::{BoxFuture, Cleanup, Lifecycle, Shape};
use crate::runtime::registration::{RegisteredAt, RegisteredService, Registration};
use crate::runtime::requests::StopRequest;
use crate::runtime::runtime_state::RuntimeState;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::runtime::shared::Shared;
use crate::schedule::Schedule;
use crate::service::error::{Error, Result};
use crate::service::failure::{Failure, Recovery};
use crate::service::outcome::{Outcome, RunReport};
use crate::service::state::ServiceState;
use crate::sync::Mutex;

mod extension;
mod instances;
mod limits;
mod long_runs;
mod patience;
mod requests;
mod turns;
mod user_code;
mod wake_ups;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fails() -> Result<Outcome> {
    Err(Error::msg("it failed"))
}

/// An endless loop that always has a message to receive, so it exhausts tokio's cooperative budget in each poll.
async fn busy() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let _ = sender.send(());
    while receiver.recv().await.is_some() {
        let _ = sender.send(());
    }
}

/// Runs a test on a runtime with one thread and on one with two, in real time. A test that hangs fails.
fn on_each_runtime<F: Future<Output = ()> + 'static>(test: fn() -> F) {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime can be built");
        let (ended, has_ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // Dropped when the test has ended or panicked.
            let _ended = ended;
            runtime.block_on(test());
            runtime.shutdown_background();
        });
        let hangs = has_ended.recv_timeout(secs(30)) == Err(mpsc::RecvTimeoutError::Timeout);
        assert!(!hangs, "the test hangs");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Fails instead of waiting for ever: virtual time passes if nothing else happens.
async fn within_a_day<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(86_400), work).await.expect("it does not end")
}

// ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A log of the calls, line by line.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: impl Into<String>) {
        self.0.lock().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|found| *found == line).count()
    }

    /// Checks that every instance that was built was cleaned up once, and then dropped.
    fn assert_one_cleanup_each(&self) {
        let lines = self.lines();
        let built = lines.iter().filter(|line| line.starts_with("built ")).count();
        for number in 1..=built {
            let end = |line: &&String| **line == format!("cleanup {number}") || **line == format!("dropped {number}");
            let ends: Vec<&String> = lines.iter().filter(end).collect();
            assert_eq!(ends, [&format!("cleanup {number}"), &format!("dropped {number}")], "{lines:#?}");
        }
    }
}

// ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────────

type Method<T> = Arc<dyn Fn(Context) -> BoxFuture<'static, Result<T>> + Send + Sync>;
type Blocking<T> = Arc<dyn Fn(&Context) -> Result<T> + Send + Sync>;

/// What the instances of a service do. By default every method succeeds at once.
#[derive(Clone)]
struct Script {
    log: Log,
    built: Arc<AtomicUsize>,
    configure: Method<()>,
    update: Method<Outcome>,
    update_blocking: Option<Blocking<Outcome>>,
    on_failure: Arc<dyn Fn(&Failure) -> Recovery + Send + Sync>,
    cleanup: Method<()>,
    cleanup_blocking: Option<Blocking<()>>,
    dropped: Arc<dyn Fn(&Context) + Send + Sync>,
}

impl Script {
    fn new() -> Self {
        Self {
            log: Log::default(),
            built: Arc::default(),
            configure: method(async |_| Ok(())),
            update: method(async |_| Ok(Outcome::idle())),
            update_blocking: None,
            on_failure: Arc::new(Failure::recovery),
            cleanup: method(async |_| Ok(())),
            cleanup_blocking: None,
            dropped: Arc::new(|_| {}),
        }
    }

    fn configure<F: Future<Output = Result<()>> + Send + 'static>(
        self,
        configure: impl Fn(Context) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { configure: method(configure), ..self }
    }

    fn update<F: Future<Output = Result<Outcome>> + Send + 'static>(
        self,
        update: impl Fn(Context) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { update: method(update), ..self }
    }

    fn update_blocking(self, update: impl Fn(&Context) -> Result<Outcome> + Send + Sync + 'static) -> Self {
        Self { update_blocking: Some(Arc::new(update)), ..self }
    }

    fn on_failure(self, on_failure: impl Fn(&Failure) -> Recovery + Send + Sync + 'static) -> Self {
        Self { on_failure: Arc::new(on_failure), ..self }
    }

    fn cleanup<F: Future<Output = Result<()>> + Send + 'static>(
        self,
        cleanup: impl Fn(Context) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { cleanup: method(cleanup), ..self }
    }

    fn cleanup_blocking(self, cleanup: impl Fn(&Context) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { cleanup_blocking: Some(Arc::new(cleanup)), ..self }
    }

    fn dropped(self, dropped: impl Fn(&Context) + Send + Sync + 'static) -> Self {
        Self { dropped: Arc::new(dropped), ..self }
    }

    async fn build(self, cx: Context) -> Result<Box<dyn Lifecycle>> {
        (self.configure)(cx.clone()).await?;
        let number = self.built.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.push(format!("built {number}"));
        Ok(Box::new(Instance { script: self, number, cx }))
    }

    /// Registers it and starts it.
    fn start(self, options: Options) -> Service {
        self.start_with(options, Arc::new(NoExtension))
    }

    fn start_with(self, options: Options, extension: Arc<dyn Extension>) -> Service {
        let (service, supervisor) = self.begin(options, Shared::default(), extension);
        service.spawn(supervisor)
    }

    /// Registers it and begins its first incarnation, whose loop does not run yet.
    fn begin(self, options: Options, shared: Shared, extension: Arc<dyn Extension>) -> (Service, Supervisor) {
        let log = self.log.clone();
        let build = move |cx: Context| -> BoxFuture<'static, _> { Box::pin(self.clone().build(cx)) };
        let factory = Factory::Closure(Arc::new(build));
        let registration = Registration::new("job", &DESCRIPTOR, factory, RegisteredAt::Attribute(&DESCRIPTOR));
        let sources = Sources::load(Inputs::default());
        let shared = Arc::new(shared);
        let registered = RegisteredService::new(registration, &shared, &sources).expect("its options are right");
        registered.inner.lock().requests.options = Arc::new(options);
        let services = Arc::new(Services::new(shared, sources, extension.resource().into_iter().collect()));
        let service = Service {
            inner: registered.inner.clone(),
            log,
            registered: Arc::new(registered),
            services,
            extension,
            run: None,
        };
        let supervisor = service.begin();
        (service, supervisor)
    }
}

fn method<T, F: Future<Output = Result<T>> + Send + 'static>(
    method: impl Fn(Context) -> F + Send + Sync + 'static,
) -> Method<T> {
    Arc::new(move |cx| Box::pin(method(cx)))
}

/// One instance.
struct Instance {
    script: Script,
    number: usize,
    cx: Context,
}

impl Lifecycle for Instance {
    fn __shape(&self) -> Shape {
        let cleanup = if self.script.cleanup_blocking.is_some() { Cleanup::Blocking } else { Cleanup::Async };
        Shape { blocking_update: self.script.update_blocking.is_some(), cleanup }
    }

    fn __update<'a>(&'a mut self, cx: &'a Context) -> BoxFuture<'a, Result<Outcome>> {
        self.script.log.push(format!("run {}", cx.run));
        (self.script.update)(cx.clone())
    }

    fn __update_blocking(&mut self, cx: &Context) -> Result<Outcome> {
        self.script.log.push(format!("run {}", cx.run));
        self.script.update_blocking.as_ref().expect("the shape says so")(cx)
    }

    fn __on_failure(&mut self, failure: &Failure) -> Recovery {
        self.script.log.push(format!("failure {}", failure.count()));
        (self.script.on_failure)(failure)
    }

    fn __cleanup<'a>(&'a mut self, cx: &'a Context) -> BoxFuture<'a, Result<()>> {
        self.script.log.push(format!("cleanup {}", self.number));
        (self.script.cleanup)(cx.clone())
    }

    fn __cleanup_blocking(&mut self, cx: &Context) -> Result<()> {
        self.script.log.push(format!("cleanup {}", self.number));
        self.script.cleanup_blocking.as_ref().expect("the shape says so")(cx)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.script.log.push(format!("dropped {}", self.number));
        (self.script.dropped)(&self.cx);
    }
}

/// A registered service, and its loop.
struct Service {
    inner: Arc<ServiceInner>,
    log: Log,
    registered: Arc<RegisteredService>,
    services: Arc<Services>,
    extension: Arc<dyn Extension>,
    run: Option<JoinHandle<Exit>>,
}

impl Service {
    /// Begins the next incarnation.
    fn begin(&self) -> Supervisor {
        let (incarnation, run) = self.inner.update(|state| {
            state.requests.begin();
            state.status.begin();
            (state.status.incarnation, state.status.stats.runs)
        });
        let cx = Context::new(self.inner.clone(), Arc::new(()), incarnation, run);
        Supervisor::new(cx, self.registered.clone(), self.services.clone(), self.extension.clone())
    }

    fn spawn(self, mut supervisor: Supervisor) -> Self {
        Self { run: Some(tokio::spawn(async move { supervise(&mut supervisor).await })), ..self }
    }

    fn start_again(self) -> Self {
        let supervisor = self.begin();
        self.spawn(supervisor)
    }

    fn state(&self) -> ServiceState {
        self.inner.lock().state()
    }

    /// Waits until its state fulfils the condition. Not every change notifies waiters, so this checks again and again:
    /// first without any time passing, then at growing intervals.
    async fn until(&self, reached: impl Fn(&RuntimeState) -> bool) {
        for looks in 0..10_000 {
            if reached(&self.inner.lock()) {
                return;
            }
            match looks {
                0..100 => tokio::task::yield_now().await,
                100..1_000 => tokio::time::sleep(ms(1)).await,
                _ => tokio::time::sleep(secs(1)).await,
            }
        }
        panic!("it does not come to that: {:?}, {:?}", self.state(), self.log.lines());
    }

    /// Waits until the first instance is built, or could not be built.
    async fn started(&self) {
        self.until(|state| state.status.is_start_resolved()).await;
    }

    fn stop(&self) {
        self.inner.request_stop(StopRequest::default());
    }

    /// Waits until the first run has begun, also if it needs a thread. No virtual time passes.
    async fn begun(&self) {
        while self.log.count("run 1") == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end of its loop.
    async fn ended(&mut self) -> Exit {
        let run = self.run.take().expect("it runs");
        let exit = within_a_day(run).await.expect("the loop does not panic");
        assert_eq!(self.state(), if exit == Exit::Stopped { ServiceState::Stopped } else { ServiceState::Failed });
        exit
    }

    async fn run_now(&self) -> Option<RunReport> {
        let (waiter, report) = oneshot::channel();
        self.inner.request_run(Some(waiter)).ok()?;
        within_a_day(report).await.ok()
    }
}
