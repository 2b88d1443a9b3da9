//! Waiting services have no task of their own: who carries them on, whatever user code and runtimes do.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use service_core::prelude::*;
use tokio::sync::{oneshot, watch};

/// Keeps its thread until it is let go.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_block_their_threads_hold_up_no_other() {
    let registry = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let (begun, all_begun) = mpsc::channel();
    let mut gates = Vec::new();
    // More than the runtime has threads.
    for n in 0..4 {
        let (gate, go) = mpsc::channel();
        gates.push(gate);
        let blocks = Blocks { begun: begun.clone(), go: Arc::new(Mutex::new(go)) };
        registry.register(&format!("blocks_{n}"), blocks).await.unwrap();
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
fn a_service_whose_runtime_is_gone_says_so_and_can_begin_anew_on_another() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    let first = runtime();
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
    assert!(dropped.load(SeqCst), "the instance is let go");
    assert_eq!(service.state(), ServiceState::Failed, "nobody takes it for running");
    runtime().block_on(async {
        service.reset().await.unwrap();
        service.run_now().await.unwrap();
        registry.shutdown().await.unwrap();
    });
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

/// The answer comes while the run's first await is on its way to a task of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_at_once_is_not_lost() {
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
        run.expect("the answer was not heard").unwrap();
    }
    registry.cleanup_all().await.unwrap();
    drop((service, registry));
    answering.join().unwrap();
}
