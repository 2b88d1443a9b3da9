//! A service that keeps virtual time from moving ends the test, and does not hang it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use service_core::prelude::*;

use crate::support::secs;

#[derive(Default)]
struct Endless;

#[service(interval = 60, discover = false)]
impl Endless {
    async fn update(&mut self) -> Outcome {
        Outcome::processed(1).again()
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving")]
async fn endless_runs_at_one_moment_end_run_for() {
    let bed = TestBed::new();
    bed.start_of::<Endless>().await;
    bed.run_for(secs(3)).await;
}

#[derive(Default)]
struct Impatient;

#[service(interval = 60, retry_delay = 0, max_failures = 4_000_000_000, discover = false)]
impl Impatient {
    async fn update(&mut self) -> Result<()> {
        Err(Error::msg("refused"))
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `impatient` keeps virtual time from moving")]
async fn endless_retries_at_one_moment_end_run_for() {
    let bed = TestBed::new();
    bed.start_of::<Impatient>().await;
    bed.run_for(secs(3)).await;
}

/// Never waits for a time, and never ends.
#[derive(Default)]
struct Spinning;

#[service(interval = 60, timeout = "1s", discover = false)]
impl Spinning {
    async fn update(&mut self) {
        loop {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `spinning` keeps virtual time from moving: its code was polled")]
async fn a_run_that_never_waits_ends_run_for() {
    let bed = TestBed::new();
    bed.start_of::<Spinning>().await;
    bed.run_for(secs(3)).await;
}

/// Wakes itself in each run.
#[derive(Default)]
struct Chain;

#[service(on_demand = true, wake_on = ["next"], discover = false)]
impl Chain {
    async fn update(&mut self, cx: &Context) {
        cx.notify("next");
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `chain` keeps virtual time from moving: it has run")]
async fn a_service_that_wakes_itself_ends_run_for() {
    let bed = TestBed::new();
    let service = bed.start_of::<Chain>().await;
    service.wake();
    bed.run_for(secs(3)).await;
}

#[tokio::test]
async fn a_service_that_wakes_itself_leaves_room_for_others() {
    let services = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let service = services.register_of::<Chain>("chain").start().await.unwrap();
    service.wake();
    while service.health().runs < 100 {
        tokio::task::yield_now().await;
    }
    service.stop().await.unwrap();
}

/// Its channel always has a message. tokio interrupts it after some of them.
#[derive(Default)]
struct Busy;

#[service(interval = 60, timeout = "500ms", discover = false)]
impl Busy {
    async fn update(&mut self) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        sender.send(()).unwrap();
        while let Some(message) = receiver.recv().await {
            sender.send(message).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `busy` keeps virtual time from moving: its code was polled")]
async fn a_channel_that_always_has_a_message_ends_run_for() {
    let bed = TestBed::new();
    bed.start_of::<Busy>().await;
    bed.run_for(secs(3)).await;
}

/// Its `configure` never waits for a time, and never ends.
struct Undecided;

#[service(interval = 60, discover = false)]
impl Undecided {
    async fn configure(_cx: &Context) -> Self {
        loop {
            tokio::task::yield_now().await;
        }
    }

    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `undecided` keeps virtual time from moving: its code was polled")]
async fn a_configure_that_never_waits_ends_the_start() {
    TestBed::new().start_of::<Undecided>().await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `spinning` keeps virtual time from moving: its code was polled")]
async fn a_run_that_never_waits_ends_run_now() {
    let service = TestBed::new().start_of::<Spinning>().await;
    let _ = service.run_now().await;
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `spinning` keeps virtual time from moving: its code was polled")]
async fn a_run_that_never_waits_ends_run_now_beside_a_database() {
    let bed = TestBed::new();
    bed.sqlite().await;
    let service = bed.start_of::<Spinning>().await;
    let _ = service.run_now().await;
}

/// Sleeps.
#[derive(Default)]
struct Napping;

#[service(interval = 60, discover = false)]
impl Napping {
    async fn update(&mut self, cx: &Context) {
        cx.sleep(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving: it has run")]
async fn endless_runs_of_a_service_end_an_update_of_another() {
    let bed = TestBed::new();
    bed.start_of::<Endless>().await;
    bed.update(&mut Napping).await;
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving: it has run")]
async fn endless_runs_of_a_service_end_an_update_of_another_beside_a_database() {
    let bed = TestBed::new();
    bed.sqlite().await;
    bed.start_of::<Endless>().await;
    bed.update(&mut Napping).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `busy` keeps virtual time from moving: its code was polled")]
async fn a_single_run_that_never_waits_is_named() {
    TestBed::new().update(&mut Busy).await;
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `busy` keeps virtual time from moving: its code was polled")]
async fn a_single_run_that_never_waits_is_named_beside_a_database() {
    let bed = TestBed::new();
    bed.sqlite().await;
    bed.update(&mut Busy).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving: it has run")]
async fn endless_runs_in_another_bed_end_run_for() {
    let (bed, other) = (TestBed::new(), TestBed::new());
    other.start_of::<Endless>().await;
    bed.run_for(secs(3)).await;
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving: it has run")]
async fn endless_runs_in_another_bed_end_run_for_beside_a_database() {
    let (bed, other) = (TestBed::new(), TestBed::new());
    bed.sqlite().await;
    other.start_of::<Endless>().await;
    bed.run_for(secs(3)).await;
}

#[tokio::test]
async fn beside_endless_runs_a_clock_that_moves_by_itself_passes() {
    let bed = TestBed::new();
    let service = bed.start_of::<Endless>().await;
    bed.run_for(std::time::Duration::from_millis(20)).await;
    assert!(service.health().runs > 0);
}

#[derive(Default)]
struct Batches(u32);

#[service(interval = 60, discover = false)]
impl Batches {
    async fn update(&mut self) -> Outcome {
        self.0 += 1;
        if self.0.is_multiple_of(20_000) { Outcome::idle() } else { Outcome::processed(100).again() }
    }
}

#[tokio::test(start_paused = true)]
async fn many_batches_at_one_moment_are_no_endless_run() {
    let bed = TestBed::new();
    let service = bed.start_of::<Batches>().await;
    bed.run_for(secs(61)).await;
    assert_eq!((service.health().runs, service.health().total_processed), (40_000, 3_999_800));
}

/// Takes real time on a thread of its own.
#[derive(Default)]
struct Blocking;

#[service(interval = 1, discover = false)]
impl Blocking {
    fn update(&mut self) -> Outcome {
        std::thread::sleep(std::time::Duration::from_millis(3));
        Outcome::processed(1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_that_is_due_at_the_end_ends_before_run_for_returns() {
    let bed = TestBed::new();
    let service = bed.start_of::<Blocking>().await;
    for second in 1..=20 {
        bed.run_for(secs(1)).await;
        assert_eq!(service.health().total_processed, second + 1);
    }
}

/// Blocking code that sleeps, and notes when it wakes: seconds since the start of the bed.
struct Sleeper {
    woken: Arc<Mutex<Vec<u64>>>,
    begun: SystemTime,
}

impl Sleeper {
    fn new(woken: &Arc<Mutex<Vec<u64>>>) -> Self {
        Self { woken: woken.clone(), begun: SystemTime::UNIX_EPOCH }
    }

    fn note(&self, cx: &Context) {
        let now = cx.now().duration_since(self.begun).unwrap_or_default();
        self.woken.lock().unwrap().push(now.as_secs());
    }
}

#[service(interval = "1h", drain_timeout = "20m", discover = false)]
impl Sleeper {
    fn update(&mut self, cx: &Context) {
        for _ in 0..2 {
            cx.blocking_sleep(secs(600));
            self.note(cx);
        }
    }

    fn cleanup(&mut self, cx: &Context) {
        cx.blocking_sleep(secs(60));
        self.note(cx);
    }
}

#[tokio::test(start_paused = true)]
async fn blocking_code_sleeps_in_virtual_time() {
    let woken = Arc::default();
    let bed = TestBed::at(SystemTime::UNIX_EPOCH);
    let service = bed.start(Sleeper::new(&woken)).await;
    bed.run_for(secs(3 * 3600 + 300)).await;
    assert_eq!(*woken.lock().unwrap(), [600, 1200, 4200, 4800, 7800, 8400]);
    // A stop ends the sleep of the run early, and its `cleanup` sleeps afterwards.
    service.stop().await.unwrap();
    assert_eq!(woken.lock().unwrap()[6..], [11_100, 11_100, 11_100]);
}

#[tokio::test(start_paused = true)]
async fn one_blocking_run_without_a_loop_does_not_sleep() {
    let woken = Arc::default();
    let mut sleeper = Sleeper::new(&woken);
    let report = TestBed::at(SystemTime::UNIX_EPOCH).update(&mut sleeper).await;
    assert!(report.error().is_none());
    assert_eq!(woken.lock().unwrap().len(), 2);
}

struct Poller(Arc<Mutex<Vec<u64>>>);

#[service(discover = false)]
impl Poller {
    fn run(&mut self, cx: &Context) {
        let begun = cx.now();
        while !cx.is_stopping() {
            cx.blocking_sleep(secs(1));
            let now = cx.now().duration_since(begun).unwrap_or_default();
            self.0.lock().unwrap().push(now.as_secs());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_run_that_sleeps_keeps_pace_with_virtual_time() {
    let woken = Arc::default();
    let bed = TestBed::new();
    let service = bed.start(Poller(Arc::clone(&woken))).await;
    bed.run_for(secs(1000)).await;
    let expected: Vec<u64> = (1..=1000).collect();
    assert_eq!(*woken.lock().unwrap(), expected);
    service.stop().await.unwrap();
}

/// Takes many turns of the runtime, and no time.
#[derive(Default)]
struct Patient;

#[service(interval = 60, discover = false)]
impl Patient {
    async fn update(&mut self) -> Outcome {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        Outcome::processed(1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_due_at_the_end_ends_before_run_for_returns() {
    let bed = TestBed::new();
    let service = bed.start_of::<Patient>().await;
    for minute in 1..=5 {
        bed.run_for(secs(60)).await;
        assert_eq!(service.health().total_processed, minute + 1);
    }
}

/// Waits for a thread that the bed does not know.
#[derive(Default)]
struct Reading;

#[service(interval = 60, discover = false)]
impl Reading {
    async fn update(&mut self) -> Result<Outcome> {
        let reading = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(20)));
        reading.await?;
        Ok(Outcome::processed(1))
    }
}

#[tokio::test(start_paused = true)]
async fn a_millisecond_more_waits_for_a_thread_that_a_run_waits_for() {
    let bed = TestBed::new();
    let reading = bed.start_of::<Reading>().await;
    bed.run_for(secs(60)).await;
    bed.run_for(Duration::from_millis(1)).await;
    assert_eq!(reading.health().total_processed, 2);
}
