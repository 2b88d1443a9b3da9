//! Services and the threads and runtimes that they run on: user code that blocks, and runtimes that shut down.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use service_core::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

fn threads(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

/// Runs `work` on a thread of its own, so that a deadlock fails the test instead of hanging it.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(60)).expect("it hangs, or panicked")
}

/// Waits until the condition is true: a runtime that shuts down drops its tasks on threads of its own.
fn until(reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not true within 30 s");
        std::thread::yield_now();
    }
}

/// Blocks its thread until the test opens its gate.
struct Blocks {
    begun: mpsc::Sender<()>,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

#[service(interval = 0.01, initial_delay = 0.01, discover = false)]
impl Blocks {
    async fn update(&mut self) {
        tokio::task::block_in_place(|| {
            let _ = self.begun.send(());
            let _ = self.go.lock().unwrap().recv();
        });
    }
}

struct Beats(watch::Sender<u64>);

#[service(interval = 0.01, discover = false)]
impl Beats {
    async fn update(&mut self) {
        self.0.send_modify(|beats| *beats += 1);
    }
}

#[test]
fn a_shutdown_ends_also_if_its_runtime_shuts_down() {
    within_a_minute(|| {
        let (first, second) = (threads(1), threads(1));
        let (beats, mut seen) = watch::channel(0);
        let registry = first.block_on(async {
            let services = ServiceRegistry::builder().without_discovered().service_fn("hangs", || Hanging);
            let services = services.service_fn("beats", move || Beats(beats.clone())).build().await.unwrap();
            services.start().await.unwrap();
            seen.wait_for(|beats| *beats > 0).await.unwrap();
            // The shutdown waits for the run that hangs.
            let _ = tokio::time::timeout(Duration::from_millis(50), services.shutdown()).await;
            services
        });
        first.shutdown_background();
        second.block_on(async {
            let error = registry.closed().await.unwrap_err().to_string();
            assert!(error.contains("the runtime of the services has shut down"), "{error}");
            let before = *seen.borrow_and_update();
            registry.start().await.unwrap();
            seen.wait_for(|beats| *beats > before).await.unwrap();
        });
        second.shutdown_background();
    });
}

struct Hanging;

#[service(interval = 60, drain_timeout = 1000, discover = false)]
impl Hanging {
    async fn update(&mut self) {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_block_their_threads_do_not_block_others() {
    let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let (begun, all_begun) = mpsc::channel();
    let mut gates = Vec::new();
    // More services than the runtime has threads.
    for n in 0..4 {
        let (gate, go) = mpsc::channel();
        gates.push(gate);
        let blocks = Blocks { begun: begun.clone(), go: Arc::new(Mutex::new(go)) };
        registry.register(format!("blocks_{n}"), blocks).await.unwrap();
    }
    let (beats, mut beat) = watch::channel(0);
    let beating = registry.register("beats", Beats(beats)).await.unwrap();
    registry.start().await.unwrap();
    tokio::task::spawn_blocking(move || (0..4).for_each(|_| all_begun.recv().unwrap())).await.unwrap();
    let now = *beat.borrow();
    beat.wait_for(|beats| *beats > now + 5).await.unwrap();
    beating.stop().await.unwrap();
    drop(gates);
    registry.shutdown().await.unwrap();
}

#[derive(Default)]
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[service(interval = 3600, discover = false)]
impl Ends {
    async fn update(&mut self) {}
}

#[test]
fn a_service_whose_runtime_has_shut_down_can_be_started_on_another() {
    let dropped = Arc::new(AtomicBool::new(false));
    let first = threads(1);
    let seen = dropped.clone();
    let (registry, service) = first.block_on(async {
        let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
        let service = registry.register_fn("ends", move || Ends(seen.clone())).await.unwrap();
        service.start().await.unwrap();
        service.run_now().await.unwrap();
        (registry, service)
    });
    assert_eq!(service.state(), ServiceState::Running);
    drop(first);
    assert!(dropped.load(SeqCst), "the instance is dropped");
    assert_eq!(service.state(), ServiceState::Failed, "it is not shown as running");
    threads(1).block_on(async {
        service.reset().await.unwrap();
        service.run_now().await.unwrap();
        registry.shutdown().await.unwrap();
    });
}

struct Gated {
    begun: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
    _ends: Ends,
}

#[service(interval = 3600, discover = false)]
impl Gated {
    async fn update(&mut self, cx: &Context) {
        if cx.run_number() > 1 {
            self.begun.send(()).unwrap();
            let _ = self.go.lock().unwrap().recv();
        }
    }
}

#[test]
fn no_service_runs_after_its_runtime_shut_down_during_a_run() {
    for _ in 0..10 {
        let (begun, has_begun) = mpsc::channel();
        let (gate, go) = mpsc::channel();
        let ends = Ends::default();
        let dropped = ends.0.clone();
        let runtime = threads(4);
        let service = runtime.block_on(async {
            let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
            let gated = Gated { begun, go: Mutex::new(go), _ends: ends };
            let service = registry.register("gated", gated).await.unwrap();
            service.start().await.unwrap();
            service.wait_for(ServiceState::Running).await.unwrap();
            while service.health().runs == 0 || service.health().last_run_duration_ms.is_none() {
                tokio::task::yield_now().await;
            }
            service
        });
        let asking = service.clone();
        runtime.spawn(async move { asking.run_now().await });
        has_begun.recv().unwrap();
        runtime.shutdown_background();
        drop(gate);
        until(|| service.state() == ServiceState::Failed);
        until(|| dropped.load(SeqCst));
    }
}

struct BadEnd;

impl Drop for BadEnd {
    fn drop(&mut self) {
        panic!("a bad end");
    }
}

#[service(interval = 3600, discover = false)]
impl BadEnd {
    async fn update(&mut self) {}
}

#[test]
fn an_instance_whose_drop_panics_does_not_keep_others_from_ending() {
    let runtime = threads(1);
    let good = Ends::default();
    let dropped = good.0.clone();
    let registry = runtime.block_on(async {
        let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
        registry.register("a_bad_one", BadEnd).await.unwrap();
        registry.register("good", good).await.unwrap();
        registry.start().await.unwrap();
        for id in registry.list() {
            registry.get(&id).unwrap().run_now().await.unwrap();
        }
        registry
    });
    drop(runtime);
    for id in registry.list() {
        until(|| registry.get(&id).unwrap().state() == ServiceState::Failed);
    }
    until(|| dropped.load(SeqCst));
}

#[test]
fn a_start_on_a_runtime_that_shuts_down_does_not_hang() {
    let state = within_a_minute(|| {
        let runtime = threads(2);
        let (begun, has_begun) = mpsc::channel();
        let (gate, go) = mpsc::channel::<()>();
        let service = runtime.block_on(async {
            let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
            registry.register("ends", Ends::default()).await.unwrap()
        });
        let starting = service.clone();
        runtime.spawn(async move {
            begun.send(()).unwrap();
            let _ = go.recv();
            starting.start().await
        });
        has_begun.recv().unwrap();
        let going = std::thread::spawn(move || drop(runtime));
        drop(gate);
        going.join().unwrap();
        until(|| service.state() != ServiceState::Starting);
        service.state()
    });
    assert!(matches!(state, ServiceState::Failed | ServiceState::Created | ServiceState::Running), "{state}");
}

#[derive(Default)]
struct Restless;

#[service(interval = 3600, discover = false)]
impl Restless {
    async fn update(&mut self, cx: &Context) {
        let itself = cx.services().get(cx.service_id()).unwrap();
        itself.run_now().await.unwrap();
    }
}

#[test]
fn a_service_that_runs_again_and_again_leaves_time_for_others() {
    within_a_minute(|| {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
            let service = registry.register_of::<Restless>("restless").await.unwrap();
            service.start().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(service.health().runs > 2);
            registry.shutdown().await.unwrap();
        });
    });
}

/// Runs the other service.
struct Ping(&'static str);

#[service(interval = 3600, discover = false)]
impl Ping {
    async fn update(&mut self, cx: &Context) {
        let other = cx.services().get(self.0).unwrap();
        // The request is made; its end is not awaited.
        let _ = tokio::time::timeout(Duration::ZERO, other.run_now()).await;
    }
}

#[tokio::test]
async fn services_that_run_each_other_without_end_do_not_delay_others() {
    let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let (beats, mut beat) = watch::channel(0);
    registry.register("beats", Beats(beats)).await.unwrap();
    registry.register("ping", Ping("pong")).await.unwrap();
    registry.register("pong", Ping("ping")).await.unwrap();
    registry.start().await.unwrap();
    let pings = registry.get("ping").unwrap().health().runs;
    let now = *beat.borrow();
    let beaten = beat.wait_for(|beats| *beats > now + 5);
    tokio::time::timeout(Duration::from_secs(30), beaten).await.expect("it beats").unwrap();
    assert!(registry.get("ping").unwrap().health().runs > pings, "they do run each other");
    registry.shutdown().await.unwrap();
}

struct Answered {
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

#[service(interval = 3600, discover = false)]
impl Answered {
    async fn update(&mut self) {
        let (answer, answered) = oneshot::channel();
        self.asks.send(answer).unwrap();
        answered.await.unwrap();
    }
}

/// The run ends while its caller is about to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_at_once_is_reported_to_its_waiter() {
    let (asks, asked) = mpsc::channel::<oneshot::Sender<()>>();
    let answering = std::thread::spawn(move || {
        for answer in asked {
            let _ = answer.send(());
        }
    });
    let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let service = registry.register("answered", Answered { asks }).await.unwrap();
    service.start().await.unwrap();
    for _ in 0..2_000 {
        let run = tokio::time::timeout(Duration::from_secs(30), service.run_now()).await;
        run.expect("the report was lost").unwrap();
    }
    registry.cleanup_all().await;
    drop((service, registry));
    answering.join().unwrap();
}

/// An error that calls its context when it is printed.
#[derive(Debug)]
struct Calls(Context);

impl std::fmt::Display for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopping: {}", self.0.is_stopping())
    }
}

impl std::error::Error for Calls {}

#[derive(Default)]
struct CannotStart;

#[service(interval = 3600, discover = false)]
impl CannotStart {
    async fn configure(cx: &Context) -> Result<Self, Calls> {
        Err(Calls(cx.clone()))
    }

    async fn update(&mut self) {}
}

#[test]
fn a_strict_start_prints_an_error_that_calls_its_context() {
    let error = within_a_minute(|| {
        threads(1).block_on(async {
            let builder = ServiceRegistry::builder().without_discovered().strict().service_of::<CannotStart>("one");
            builder.build().await.unwrap().start().await.unwrap_err().to_string()
        })
    });
    assert_eq!(error, "service `one` did not start: stopping: true");
}

/// The services' runtime is alive, so a thread without one uses it.
#[test]
fn a_thread_without_a_runtime_starts_services() {
    within_a_minute(|| {
        let runtime = threads(1);
        let (beats, _seen) = watch::channel(0);
        let services = runtime.block_on(async {
            let services = ServiceRegistry::builder().without_discovered();
            services.service_fn("beats", move || Beats(beats.clone())).start_all().await.unwrap()
        });
        let beats = services.get("beats").unwrap();
        std::thread::spawn(move || {
            block_on(beats.stop()).unwrap();
            block_on(beats.start()).unwrap();
            assert_eq!(beats.state(), ServiceState::Running);
            block_on(services.stop_all());
            block_on(services.start()).unwrap();
            assert_eq!(beats.state(), ServiceState::Running);
            block_on(services.shutdown()).unwrap();
        })
        .join()
        .unwrap();
    });
}

/// Polls a future on a thread without a runtime.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let (mut task, mut work) = (std::task::Context::from_waker(&waker), std::pin::pin!(work));
    loop {
        match work.as_mut().poll(&mut task) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
