//! A hundred tasks on one handle: no deadlock, no lost wake-up, only legal state changes, never two runs at once, and
//! every instance is cleaned up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use service_core::prelude::*;
use service_core::{ServiceEvent, ServiceEventKind};

use crate::events::drain;
use crate::support::secs;

#[derive(Default)]
struct Seen {
    running: AtomicBool,
    overlapped: AtomicBool,
    built: AtomicUsize,
    cleaned: AtomicUsize,
    runs: AtomicUsize,
}

/// Fails at random in every way except by a panic, which would print its message a thousand times.
struct Racer {
    seen: Arc<Seen>,
    random: fastrand::Rng,
}

#[service(
    interval = "2ms",
    retry_delay = "1ms",
    max_failures = 1,
    restart = "on_failure",
    restart_delay = "3ms",
    max_restarts = 2,
    restart_window = "20ms",
    discover = false
)]
impl Racer {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        if self.seen.running.swap(true, Ordering::SeqCst) {
            self.seen.overlapped.store(true, Ordering::SeqCst);
        }
        self.seen.runs.fetch_add(1, Ordering::SeqCst);
        for _ in 0..self.random.u32(0..4) {
            tokio::task::yield_now().await;
        }
        if self.random.u32(0..8) == 0 {
            cx.sleep(Duration::from_millis(1)).await;
        }
        self.seen.running.store(false, Ordering::SeqCst);
        match self.random.u32(0..12) {
            0 => Err(Error::msg("a random error")),
            1 => Err(Error::fatal("a permanent error")),
            2 => Ok(Outcome::processed(1).again()),
            3 => {
                cx.pause();
                Ok(Outcome::idle())
            }
            _ => Ok(Outcome::idle()),
        }
    }

    async fn cleanup(&mut self) {
        tokio::task::yield_now().await;
        self.seen.cleaned.fetch_add(1, Ordering::SeqCst);
    }
}

async fn racer(bed: &TestBed, seen: &Arc<Seen>) -> ServiceHandle {
    let (seen, instances) = (seen.clone(), AtomicUsize::new(0));
    bed.start_fn(move || {
        seen.built.fetch_add(1, Ordering::SeqCst);
        let seed = instances.fetch_add(1, Ordering::SeqCst) as u64;
        Racer { seen: seen.clone(), random: fastrand::Rng::with_seed(seed) }
    })
    .await
}

/// The requests of one task. Each must be answered in time.
async fn ask(service: ServiceHandle, seed: u64, requests: u32, pause: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..requests {
        let answer = async {
            match random.u32(0..9) {
                0 => drop(service.start().await),
                1 => service.stop().await.expect("a stop succeeds"),
                2 => drop(service.pause().await),
                3 => drop(service.resume().await),
                4 => drop(service.reset().await),
                5 => drop(tokio::time::timeout(Duration::from_micros(50), service.stop()).await),
                6 => drop(service.health()),
                _ => drop(service.run_now().await),
            }
        };
        tokio::time::timeout(secs(20), answer).await.expect("a request is never answered");
        if pause {
            tokio::time::sleep(Duration::from_micros(random.u64(0..5000))).await;
        }
    }
}

/// Every state change is legal, and begins in the state where the last one ended.
fn check_steps(events: &[ServiceEvent]) {
    let mut state = ServiceState::Created;
    for event in events {
        match event.kind {
            ServiceEventKind::StateChanged { from, to } => {
                assert_eq!(from, state);
                assert!(from.may_become(to), "{from} became {to}");
                state = to;
            }
            ServiceEventKind::Lagged { missed } => panic!("{missed} events are missing"),
            _ => {}
        }
    }
}

/// Whatever happened before, the service can be started again and runs on request.
async fn still_works(service: &ServiceHandle) {
    match service.state() {
        ServiceState::Failed => service.reset().await.unwrap(),
        state if !state.is_running() => service.start().await.unwrap(),
        _ => {}
    }
    for _ in 0..100 {
        // Its random failures may end it in the meantime; then it is started again.
        match tokio::time::timeout(secs(20), service.run_now()).await.expect("a lost wake-up") {
            Ok(_) => return,
            Err(_) => drop(if service.state() == ServiceState::Failed {
                service.reset().await
            } else {
                service.start().await
            }),
        }
    }
    panic!("it never ran: {:?}", service.health());
}

fn check_end(service: &ServiceHandle, seen: &Seen) {
    assert!(!seen.overlapped.load(Ordering::SeqCst), "two runs at once");
    assert_eq!(seen.built.load(Ordering::SeqCst), seen.cleaned.load(Ordering::SeqCst), "one cleanup for each instance");
    assert_eq!(service.health().runs, seen.runs.load(Ordering::SeqCst) as u64);
    assert!(!service.state().is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_tasks_on_one_handle() {
    let (bed, seen) = (TestBed::new(), Arc::new(Seen::default()));
    let services = bed.services().await;
    let mut events = services.subscribe();
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            all.extend(drain(&mut events).await);
            if all.last().is_some_and(|event| matches!(event.kind, ServiceEventKind::Unregistered)) {
                return all;
            }
            tokio::task::yield_now().await;
        }
    });
    let service = racer(&bed, &seen).await;
    let tasks: Vec<_> = (0..100).map(|seed| tokio::spawn(ask(service.clone(), seed, 40, false))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    still_works(&service).await;
    tokio::time::timeout(secs(20), services.cleanup_all()).await.unwrap();
    check_steps(&tokio::time::timeout(secs(20), reader).await.unwrap().unwrap());
    check_end(&service, &seen);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_on_one_handle_at_random_moments() {
    for round in 0..10 {
        let (bed, seen) = (TestBed::new(), Arc::new(Seen::default()));
        let services = bed.services().await;
        let mut events = services.subscribe();
        let service = racer(&bed, &seen).await;
        let seeds = round * 100..round * 100 + 100;
        let tasks: Vec<_> = seeds.map(|seed| tokio::spawn(ask(service.clone(), seed, 5, true))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        still_works(&service).await;
        let _ = tokio::time::timeout(secs(60), services.shutdown()).await.expect("a shutdown ends");
        check_steps(&drain(&mut events).await);
        check_end(&service, &seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_are_registered_and_unregistered_concurrently() {
    let bed = TestBed::new();
    let services = bed.services().await;
    let tasks: Vec<_> = (0..50_u64)
        .map(|n| {
            let services = services.clone();
            tokio::spawn(async move {
                let id = format!("s{}", n % 10);
                for seed in 0..20 {
                    let random = fastrand::Rng::with_seed(seed);
                    let racer = Racer { seen: Arc::default(), random };
                    if let Ok(service) = services.register(&id, racer).await {
                        let _ = service.start().await;
                    }
                    let _ = services.health();
                    let _ = services.start().await;
                    let _ = services.unregister(&id).await;
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(secs(20), task).await.expect("it hangs").unwrap();
    }
    tokio::time::timeout(secs(20), services.cleanup_all()).await.unwrap();
    assert!(services.list().is_empty());
}
