//! From start to stop: instances, states, schedules.

use service_core::prelude::*;

use crate::support::{Log, Scripted, Step, secs};

#[tokio::test(start_paused = true)]
async fn runs_begin_on_a_fixed_grid() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(7.0), Step::Succeed, Step::Take(75.0)])).await;
    bed.run_for(secs(320)).await;
    assert_eq!(log.times("run"), [0.0, 60.0, 120.0, 195.0, 255.0, 315.0], "the third run is longer than the interval");
    assert_eq!(service.health().runs, 6);
    assert_eq!(service.health().total_processed, 6);
}

#[tokio::test(start_paused = true)]
async fn after_again_the_next_run_follows_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    bed.start(Scripted::new(&log, &[Step::Again, Step::Again, Step::Succeed])).await;
    bed.run_for(secs(60)).await;
    assert_eq!(log.times("run"), [0.0, 0.0, 0.0, 60.0]);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_the_run_and_cleans_up_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    let (first, second) = tokio::join!(service.stop(), service.stop());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(service.state(), ServiceState::Stopped);
    assert_eq!(log.times("cleanup"), [10.0]);
    assert!(service.stop().await.is_ok());
    let error = service.start().await.unwrap_err().to_string();
    assert!(error.contains("service_fn"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_run_is_aborted_after_drain_timeout() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Hang])).await;
    bed.run_for(secs(1)).await;
    service.stop().await.unwrap();
    assert_eq!(log.times("cleanup"), [31.0]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_cleanup_is_aborted_after_drain_timeout() {
    let (bed, log) = (TestBed::new(), Log::default());
    let mut service = Scripted::new(&log, &[Step::Hang]);
    service.cleanup = Step::Hang;
    let service = bed.start(service).await;
    bed.run_for(secs(1)).await;
    service.stop().await.unwrap();
    log.push("stopped");
    assert_eq!(log.times("stopped"), [61.0]);
}

#[tokio::test(start_paused = true)]
async fn pause_keeps_the_instance_and_resume_runs_what_is_due() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(10)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(service.state(), ServiceState::Paused);
    assert_eq!(service.run_now().await.unwrap().processed(), 1);
    assert_eq!(service.state(), ServiceState::Paused);
    bed.run_for(secs(100)).await;
    service.resume().await.unwrap();
    bed.run_for(secs(31)).await;
    assert_eq!(log.times("run"), [0.0, 110.0, 210.0, 240.0]);
    assert_eq!(log.count("cleanup"), 0);
}

/// Starts a task that lives as long as the context of its `configure`. The first two instances do not last.
struct Watching {
    log: Log,
    number: u32,
}

#[service(interval = 60, retry_delay = 10, max_failures = 5, discover = false)]
impl Watching {
    fn configure(cx: &Context) -> Result<Self> {
        let log = cx.state::<Log>()?.clone();
        let number = 1 + log.lines().iter().filter(|(_, line)| line.starts_with("begins")).count() as u32;
        log.push(format!("begins {number}"));
        let (context, writer) = (cx.clone(), log.clone());
        tokio::spawn(async move {
            context.stopping().await;
            writer.push(format!("ends {number}"));
        });
        if number == 1 { Err(Error::msg("not yet")) } else { Ok(Self { log, number }) }
    }

    async fn update(&mut self) {
        assert!(self.number > 2, "it panics");
        self.log.push("run");
    }
}

#[tokio::test(start_paused = true)]
async fn the_context_of_configure_ends_with_its_instance() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone());
    let service = bed.start_of::<Watching>().await;
    bed.run_for(secs(100)).await;
    let expected =
        [(0.0, "begins 1"), (0.0, "ends 1"), (10.0, "begins 2"), (10.0, "ends 2"), (20.0, "begins 3"), (20.0, "run")];
    let lines = log.lines();
    assert_eq!(lines[..6].iter().map(|(at, line)| (*at, line.as_str())).collect::<Vec<_>>(), expected, "{lines:?}");
    assert_eq!(log.count("ends 3"), 0);
    service.stop().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(log.count("ends 3"), 1);
}
