//! A plain `fn update` is blocking code: it runs outside the async threads, and never twice at once.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use service_core::prelude::*;

use crate::acting::{has_line, logged, soon};
use crate::support::{Log, secs};

/// Blocks its thread until the test opens its gate.
struct Blocking {
    log: Log,
    gate: Arc<Mutex<Receiver<()>>>,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

#[service(interval = 60, discover = false)]
impl Blocking {
    fn update(&mut self) {
        self.log.push("run");
        self.threads.lock().unwrap().push(std::thread::current().id());
        let _ = self.gate.lock().unwrap().recv();
        self.log.push("end");
    }

    async fn cleanup(&mut self) {
        self.log.push("cleanup");
        tokio::time::sleep(secs(1)).await;
        self.log.push("cleaned");
    }
}

type Built = (Sender<()>, Arc<Mutex<Vec<ThreadId>>>, Box<dyn Fn() -> Blocking + Send + Sync>);

fn blocking(log: &Log) -> Built {
    let (open, gate) = channel();
    let (gate, threads, log) = (Arc::new(Mutex::new(gate)), Arc::default(), log.clone());
    let build = {
        let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::clone(&threads);
        Box::new(move || Blocking { log: log.clone(), gate: gate.clone(), threads: threads.clone() })
    };
    (open, threads, build)
}

/// Advances the clock: while a thread blocks, tokio's paused clock does not advance by itself.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

/// Advances the clock, slowly, until the condition is true. A run whose thread begins only after its timeout does not
/// begin.
async fn pass_until(mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "not true within 60 s");
        tokio::time::advance(Duration::from_millis(100)).await;
        for _ in 0..8 {
            std::thread::sleep(Duration::from_micros(500));
            tokio::task::yield_now().await;
        }
    }
}

/// Waits in real time, so that other threads can work, until the condition is true.
async fn until(mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(10), "not true within 10 s");
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_update_runs_outside_the_async_threads() {
    let (bed, log) = (TestBed::new(), Log::default());
    let (open, threads, build) = blocking(&log);
    let service = bed.start_fn(build).await;
    until(|| log.count("run") == 1).await;
    let other = Log::default();
    other.push("this thread is free");
    open.send(()).unwrap();
    until(|| log.count("end") == 1).await;
    until(|| service.health().last_run_duration_ms.is_some()).await;
    assert_ne!(threads.lock().unwrap()[0], std::thread::current().id());
    open.send(()).unwrap();
    soon(service.stop()).await.unwrap();
    assert_eq!(log.count("cleanup"), 1);
}

#[tokio::test(start_paused = true)]
async fn no_run_begins_before_a_blocking_run_that_timed_out_has_returned() {
    let (bed, log) = (TestBed::new().set("timeout", 3), Log::default());
    let (open, _, build) = blocking(&log);
    let service = bed.start_fn(build).await;
    until(|| log.count("run") == 1).await;
    pass(4).await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::BackingOff, 1));
    pass(100).await;
    assert_eq!(log.count("run"), 1, "the retry waits for the thread");
    assert_eq!(service.health().status, service_core::HealthStatus::Unhealthy);
    let reason = service.health().reason.unwrap();
    assert!(reason.contains("blocking run 1 timed out and has not returned"), "{reason}");
    open.send(()).unwrap();
    until(|| log.count("run") == 2).await;
    open.send(()).unwrap();
    until(|| log.count("end") == 2).await;
    until(|| service.health().failures == 0).await;
    drop(open);
    soon(service.stop()).await.unwrap();
    assert_eq!(log.count("cleanup"), 1, "the instance was kept");
}

#[tokio::test(start_paused = true)]
async fn a_restart_waits_for_the_blocking_run_and_says_so() {
    let bed = TestBed::new().set("timeout", 3).set("max_failures", 0).set("restart", "on_failure");
    let log = Log::default();
    let (open, _, build) = blocking(&log);
    let service = bed.set("restart_delay", 50).start_fn(build).await;
    until(|| log.count("run") == 1).await;
    pass(10).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::BackingOff, 1));
    let reason = service.health().reason.unwrap();
    assert!(reason.contains("blocking run 1 timed out and has not returned"), "{reason}");
    open.send(()).unwrap();
    until(|| log.count("cleanup") == 1).await;
    let health = service.health();
    let reason = health.reason.unwrap();
    assert!(
        health.status == HealthStatus::Unhealthy && reason.contains("restarting with a fresh instance"),
        "{reason}"
    );
    pass_until(|| log.count("run") == 2).await;
    drop(open);
    soon(service.stop()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_that_never_returns_does_not_block_the_stop() {
    let (bed, log) = (TestBed::new().set("drain_timeout", 5), Log::default());
    let (lines, _logging) = logged();
    let (open, _, build) = blocking(&log);
    let service = bed.start_fn(build).await;
    until(|| log.count("run") == 1).await;
    let stop = tokio::spawn({
        let service = service.clone();
        async move { service.stop().await }
    });
    pass(11).await;
    assert_eq!(service.state(), ServiceState::Stopped);
    stop.await.unwrap().unwrap();
    assert_eq!(log.count("cleanup"), 0, "the blocking run still holds the instance");
    assert!(has_line(&lines, &["WARN", "[blocking]", "does not return"]), "{lines:?}");

    // The service is started again, and the late cleanup of the old instance does not disturb it.
    soon(service.start()).await.unwrap();
    until(|| service.health().runs == 2).await;
    open.send(()).unwrap();
    until(|| log.count("cleanup") == 1).await;
    open.send(()).unwrap();
    until(|| service.health().next_run.is_some()).await;
    soon(service.stop()).await.unwrap();
    assert_eq!((service.state(), log.count("cleanup")), (ServiceState::Stopped, 2));
}

#[tokio::test(start_paused = true)]
async fn a_blocking_cleanup_that_hangs_does_not_block_the_stop() {
    struct Stuck(Mutex<Receiver<()>>);

    #[service(interval = 60, discover = false)]
    impl Stuck {
        async fn update(&mut self) {}

        fn cleanup(&mut self) {
            let _ = self.0.lock().unwrap().recv();
        }
    }

    let (lines, _logging) = logged();
    let (open, gate) = channel();
    let bed = TestBed::new().set("drain_timeout", 5);
    let service = bed.start(Stuck(Mutex::new(gate))).await;
    let stop = tokio::spawn({
        let service = service.clone();
        async move { service.stop().await }
    });
    pass(6).await;
    assert_eq!(service.state(), ServiceState::Stopped);
    stop.await.unwrap().unwrap();
    assert!(has_line(&lines, &["WARN", "[stuck]", "`cleanup` took too long"]), "{lines:?}");
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_may_stop_its_own_service() {
    struct Once;

    #[service(interval = 60, discover = false)]
    impl Once {
        fn update(&mut self, cx: &Context) -> Result<()> {
            let me = cx.services().get(cx.service_id()).ok_or("gone").map_err(Error::new)?;
            tokio::runtime::Handle::current().block_on(me.stop())
        }
    }

    let bed = TestBed::new();
    let service = bed.start(Once).await;
    soon(service.wait_for(ServiceState::Stopped)).await.unwrap();
    assert_eq!((service.health().runs, service.health().error_count), (1, 0));
}

/// Reports itself ready after ten seconds.
#[derive(Default)]
struct Reader;

#[service(readiness = "explicit", discover = false)]
impl Reader {
    fn run(&mut self, cx: &Context) {
        cx.blocking_sleep(secs(10));
        cx.ready();
        while !cx.is_stopping() {
            cx.blocking_sleep(secs(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_with_explicit_readiness_is_starting_until_it_is_ready() {
    let bed = TestBed::new();
    let services = bed.services().await;
    let reader = services.register_of::<Reader>("reader").await.unwrap();
    let starting = tokio::spawn({
        let reader = reader.clone();
        async move { reader.start().await }
    });
    bed.run_for(secs(5)).await;
    assert_eq!(reader.state(), ServiceState::Starting);
    bed.run_for(secs(6)).await;
    assert_eq!(reader.state(), ServiceState::Running);
    starting.await.unwrap().unwrap();
    soon(services.shutdown()).await.unwrap();
}

/// Sleeps on a thread of its own, which no runtime knows.
struct OwnThread(Option<tokio::sync::oneshot::Sender<()>>);

#[service(interval = 60, discover = false)]
impl OwnThread {
    async fn update(&mut self, cx: &Context) {
        if let Some(woken) = self.0.take() {
            let cx = cx.clone();
            std::thread::spawn(move || {
                cx.blocking_sleep(Duration::from_millis(20));
                woken.send(())
            });
        }
    }
}

/// On real time: the thread does not keep virtual time from moving.
#[tokio::test]
async fn a_thread_of_the_services_own_may_sleep() {
    let (woken, has_woken) = tokio::sync::oneshot::channel();
    let bed = TestBed::new();
    let service = bed.start(OwnThread(Some(woken))).await;
    has_woken.await.expect("it wakes up and does not panic");
    service.stop().await.unwrap();
}
