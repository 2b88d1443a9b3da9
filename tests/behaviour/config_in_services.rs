//! How a service reads and changes its own configuration while it runs.

use service_core::prelude::*;

use crate::acting::{Acting, assert_says, soon};
use crate::support::{Log, Scripted, Step, secs};

#[tokio::test(start_paused = true)]
async fn a_changed_interval_applies_to_the_current_wait() {
    let (bed, log) = (TestBed::new(), Log::default());
    let (sender, receiver) = std::sync::mpsc::channel();
    bed.start(Acting::new(&log, move |cx| {
        sender.send(cx).unwrap();
        async {}
    }))
    .await;
    bed.run_for(secs(5)).await;
    let cx: Context = receiver.recv().unwrap();
    cx.set_interval(secs(20));
    bed.run_for(secs(40)).await;
    assert_eq!(log.times("run"), [0.0, 20.0, 40.0]);
    cx.set_interval(secs(1000));
    bed.run_for(secs(1000)).await;
    assert_eq!(log.times("run"), [0.0, 20.0, 40.0, 1040.0]);
}

#[tokio::test(start_paused = true)]
async fn a_change_within_a_run_applies_to_the_next_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let inner = log.clone();
    let service = bed
        .start(Acting::new(&log, move |cx| {
            let log = inner.clone();
            async move {
                cx.set_interval(secs(7));
                cx.set_retry_delay(secs(2));
                if log.count("run") == 2 { Err("no") } else { Ok(()) }
            }
        }))
        .await;
    bed.run_for(secs(22)).await;
    assert_eq!(log.times("run"), [0.0, 7.0, 9.0, 14.0, 21.0]);
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_changed_delay_counts_from_the_end_of_the_run() {
    let (bed, log) = (TestBed::new().set("delay", 60), Log::default());
    let (sender, receiver) = std::sync::mpsc::channel();
    bed.start(Acting::new(&log, move |cx| {
        sender.send(cx).unwrap();
        tokio::time::sleep(secs(3))
    }))
    .await;
    bed.run_for(secs(10)).await;
    receiver.recv().unwrap().set_interval(secs(20));
    bed.run_for(secs(40)).await;
    assert_eq!(log.times("run"), [0.0, 23.0, 46.0]);
}

#[tokio::test(start_paused = true)]
async fn degraded_lasts_until_the_next_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            if cx.run_number() == 1 {
                cx.degraded("the mirror is behind");
            }
        }))
        .await;
    bed.run_for(secs(59)).await;
    let health = service.health();
    assert_eq!(
        (health.status, health.reason.as_deref()),
        (service_core::HealthStatus::Degraded, Some("the mirror is behind"))
    );
    bed.run_for(secs(2)).await;
    assert_eq!((service.health().status, service.health().reason), (service_core::HealthStatus::Healthy, None));
}

#[tokio::test(start_paused = true)]
async fn shared_state_is_found_by_type_and_missing_state_is_an_error() {
    struct Mailer(u32);
    let (bed, log) = (TestBed::new().state(Mailer(7)).state("shared".to_owned()), Log::default());
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            assert_eq!(cx.state::<Mailer>()?.0, 7);
            assert_eq!(cx.state::<String>()?, "shared");
            assert_says(cx.state::<u64>(), &["service `acting`", "`u64`", "`.state(…)`", "builder"]);
            cx.state::<u64>().map(|_| ())
        }))
        .await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!(service.health().runs, 1, "a missing value is fatal: no retry");
    assert!(service.health().last_error.unwrap().contains("`u64`"));
}

#[tokio::test(start_paused = true)]
async fn the_requester_id_of_the_options_overrides_that_of_the_builder() {
    let seen = |log: &Log| {
        let log = log.clone();
        move |cx: Context| {
            log.push(cx.requester_id());
            async {}
        }
    };
    let log = Log::default();
    let options = ServiceOptions::new().requester_id("its options");
    let bed = TestBed::new().requester_id("the builder");
    let bed = bed.with(|builder| {
        builder
            .service("plain", Acting::new(&log, seen(&log)))
            .service("own", Acting::new(&log, seen(&log)))
            .options_of("own", options)
    });
    soon(bed.services().await.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!((log.count("the builder"), log.count("its options")), (1, 1));

    let (bed, log) = (TestBed::new(), Log::default());
    bed.start(Acting::new(&log, seen(&log))).await;
    bed.run_for(secs(1)).await;
    assert_eq!(log.count("system"), 1);
}

async fn jittered(seed: u64) -> Vec<f64> {
    let (bed, log) = (TestBed::new().seed(seed).set("jitter", 10), Log::default());
    bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(600)).await;
    log.times("run")
}

#[tokio::test(start_paused = true)]
async fn jitter_is_the_same_for_the_same_seed_and_does_not_move_the_grid() {
    let times = jittered(1).await;
    assert_eq!(times, jittered(1).await);
    assert_ne!(times, jittered(2).await);
    for (n, at) in times.iter().enumerate() {
        let late = at - 60.0 * n as f64;
        assert!((0.0..=10.0).contains(&late), "{times:?}");
    }
    assert!(times.iter().any(|at| at.fract() != 0.0), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn each_service_of_a_bed_has_its_own_jitter() {
    let (bed, log, other) = (TestBed::new().set("jitter", 10), Log::default(), Log::default());
    bed.start(Scripted::new(&log, &[])).await;
    bed.start(Scripted::new(&other, &[])).await;
    bed.run_for(secs(200)).await;
    assert_ne!(log.times("run"), other.times("run"));
}

#[tokio::test(start_paused = true)]
async fn counters_and_gauges_are_in_the_health() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            cx.metrics().add("items_processed", 3);
            cx.metrics().set("queue_depth", cx.run_number() as u32);
        }))
        .await;
    bed.run_for(secs(61)).await;
    let metrics = service.health().metrics;
    assert_eq!((metrics["items_processed"], metrics["queue_depth"]), (6.0, 2.0));
}

#[tokio::test(start_paused = true)]
async fn run_numbers_continue_after_a_stop_and_a_start() {
    let (bed, log) = (TestBed::new(), Log::default());
    let builder_log = log.clone();
    let service = bed
        .start_fn(move || {
            let log = builder_log.clone();
            Acting::new(&builder_log, move |cx| {
                log.push(format!("number {}", cx.run_number()));
                async {}
            })
        })
        .await;
    bed.run_for(secs(61)).await;
    soon(service.stop()).await.unwrap();
    soon(service.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!((log.times("number 2"), log.times("number 3")), (vec![60.0], vec![61.0]));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_own_setting_fails_only_that_service_at_once() {
    #[derive(serde::Deserialize)]
    struct Settings {
        batch_size: u32,
    }

    struct Typed;

    #[service(interval = 60, discover = false)]
    impl Typed {
        fn configure(_: &Context, settings: Settings) -> Self {
            assert_ne!(settings.batch_size, 0);
            Self
        }

        async fn update(&mut self) {}
    }

    let bed = TestBed::new().set("wrong.batch_size", "many").set("right.batch_size", 3);
    let services = bed.services().await;
    let right = services.register_of::<Typed>("right").await.unwrap();
    let wrong = services.register_of::<Typed>("wrong").await.unwrap();
    let missing = services.register_of::<Typed>("missing").await.unwrap();
    assert_says(wrong.start().await, &["`wrong`", "batch_size", "many"]);
    assert_says(missing.start().await, &["`missing`", "batch_size"]);
    right.start().await.unwrap();
    let state = |service: &ServiceHandle| service.state();
    assert_eq!((state(&wrong), state(&missing), state(&right)), {
        (ServiceState::Failed, ServiceState::Failed, ServiceState::Running)
    });
    assert_eq!(wrong.health().error_count, 1);
}

#[tokio::test(start_paused = true)]
async fn update_of_the_bed_returns_the_report_of_one_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let mut scripted = Scripted::new(&log, &[Step::Take(2.0), Step::Fail, Step::Panic]);
    let report = bed.update(&mut scripted).await;
    assert_eq!((report.processed(), report.duration(), report.error().is_none()), (1, secs(2), true));
    assert_eq!(bed.update(&mut scripted).await.error().unwrap().to_string(), "it failed");
    assert!(bed.update(&mut scripted).await.error().unwrap().to_string().contains("it panicked"));
}

/// Has options that need further instances, which a single run does not.
struct Restarted;

#[service(restart = "on_failure", instances = 2, discover = false)]
impl Restarted {
    async fn update(&mut self, cx: &Context) -> Outcome {
        cx.processed(3);
        cx.failed(1);
        Outcome::processed(1)
    }
}

struct Stream(u64);

#[service(discover = false)]
impl Stream {
    async fn run(&mut self, cx: &Context) {
        while self.0 > 0 && !cx.is_stopping() {
            self.0 -= 1;
            cx.processed(1);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn update_of_the_bed_counts_what_the_code_reports_whatever_the_options_are() {
    let bed = TestBed::new();
    let report = bed.update(&mut Restarted).await;
    assert_eq!((report.processed(), report.failed()), (4, 1));
    let report = bed.update(&mut Stream(5)).await;
    assert_eq!((report.processed(), report.error().is_none()), (5, true));
}

/// Counts items, and fails.
#[derive(Default)]
struct Halfway;

#[service(interval = 60, discover = false)]
impl Halfway {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.processed(3);
        cx.failed(1);
        Err(Error::msg("the connection is lost"))
    }
}

#[tokio::test(start_paused = true)]
async fn the_report_of_a_failed_run_has_the_items_that_its_code_counted() {
    let bed = TestBed::new();
    let items = |report: &RunReport| (report.processed(), report.failed(), report.error().is_some());
    assert_eq!(items(&bed.update(&mut Halfway).await), (3, 1, true));
    assert_eq!(items(&bed.update_of::<Halfway>().await), (3, 1, true));
    let service = bed.start_of::<Halfway>().await;
    assert_eq!(items(&service.run_now().await.unwrap()), (3, 1, true));
    let (health, runs) = (service.health(), service.health().runs);
    assert_eq!((health.total_processed, health.total_failed), (3 * runs, runs));
}

/// Changes its own interval in its second run.
#[derive(Default)]
struct Slowing {
    runs: u32,
}

#[service(interval = 60, discover = false)]
impl Slowing {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        self.runs += 1;
        cx.state::<crate::support::Log>()?.push("run");
        if self.runs == 2 {
            cx.set_interval(std::time::Duration::from_secs(70));
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_interval_counts_from_the_start_of_the_run_that_sets_it() {
    let log = crate::support::Log::default();
    let bed = TestBed::new().state(log.clone());
    bed.start_of::<Slowing>().await;
    bed.run_for(std::time::Duration::from_secs(210)).await;
    assert_eq!(log.times("run"), [0.0, 60.0, 130.0, 200.0]);
}
