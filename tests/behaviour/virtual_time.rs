//! A service that keeps virtual time from moving ends the test, and does not hang it.

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
