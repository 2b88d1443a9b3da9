//! `run_now` in every state: a run as soon as the current one has ended, or an error with the reason.

use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, assert_says, soon};
use crate::support::{Log, Scripted, Step, built, secs};

#[tokio::test(start_paused = true)]
async fn between_runs_run_now_runs_at_once_and_does_not_move_the_grid() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(20)).await;
    let report = soon(service.run_now()).await.unwrap();
    assert_eq!((report.processed(), report.failed(), report.again()), (1, 0, false));
    assert!(report.error().is_none());
    bed.run_for(secs(100)).await;
    assert_eq!(log.times("run"), [0.0, 20.0, 60.0, 120.0]);
}

#[tokio::test(start_paused = true)]
async fn during_a_run_run_now_makes_the_next_one_follow_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0), Step::Take(2.0)])).await;
    bed.run_for(secs(1)).await;
    let (first, second) = soon(async { tokio::join!(service.run_now(), service.run_now()) }).await;
    assert_eq!(
        (first.unwrap().duration(), second.unwrap().duration()),
        (secs(2), secs(2)),
        "both callers get the report of one run"
    );
    bed.run_for(secs(30)).await;
    assert_eq!(log.times("run"), [0.0, 10.0]);
}

#[tokio::test(start_paused = true)]
async fn during_the_initial_delay_run_now_runs_and_the_delay_continues() {
    let (bed, log) = (TestBed::new().set("initial_delay", 30), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(10)).await;
    soon(service.run_now()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!(log.times("run"), [10.0, 30.0, 90.0]);
}

#[tokio::test(start_paused = true)]
async fn during_backoff_run_now_is_the_retry() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail, Step::Succeed])).await;
    bed.run_for(secs(1)).await;
    assert!(soon(service.run_now()).await.unwrap().error().is_none());
    assert_eq!((service.state(), service.health().failures), (ServiceState::Running, 0));
    bed.run_for(secs(60)).await;
    assert_eq!(log.times("run"), [0.0, 1.0, 60.0]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_service_runs_once_and_stays_paused() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(129)).await;
    assert!(soon(service.run_now()).await.unwrap().error().is_none());
    assert_eq!(service.state(), ServiceState::Paused);
    bed.run_for(secs(500)).await;
    assert_eq!((service.state(), log.times("run")), (ServiceState::Paused, vec![0.0, 130.0]));
}

#[tokio::test(start_paused = true)]
async fn a_run_now_that_fails_during_backoff_counts_and_backs_off_again() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail, Step::Fail])).await;
    bed.run_for(secs(1)).await;
    let report = soon(service.run_now()).await.unwrap();
    assert_eq!(report.error().unwrap().to_string(), "it failed");
    assert_eq!((service.state(), service.health().failures), (ServiceState::BackingOff, 2));
    bed.run_for(secs(10)).await;
    assert_eq!(log.times("run"), [0.0, 1.0, 6.0]);
}

#[tokio::test(start_paused = true)]
async fn during_the_wait_for_a_restart_run_now_runs_a_fresh_instance() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let service =
        bed.start_fn(built(&log, |log, nth| Scripted::new(log, if nth == 1 { &[Step::Fatal] } else { &[] }))).await;
    bed.run_for(secs(1)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    soon(service.run_now()).await.unwrap();
    assert_eq!((log.times("built"), service.state()), (vec![0.0, 1.0], ServiceState::Running));
}

#[tokio::test(start_paused = true)]
async fn run_now_of_a_service_that_does_not_run_is_refused_with_the_reason() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(10.0)]));
    let services = bed.services().await;
    let service = services.register("one", Scripted::new(&log, &[])).await.unwrap();
    assert_says(service.run_now().await, &["cannot run service `one`", "not been started", "`start` it first"]);
    service.start().await.unwrap();
    service.stop().await.unwrap();
    assert_says(service.run_now().await, &["cannot run service `one`", "stopped", "`start` it first"]);

    let failed = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    failed.wait_for(ServiceState::Failed).await.unwrap();
    assert_says(failed.run_now().await, &["`scripted`", "failed", "`reset`"]);

    let starting = services.register_of::<Configured>("slow").await.unwrap();
    tokio::join!(async { starting.start().await.unwrap() }, async {
        bed.run_for(secs(1)).await;
        assert_says(starting.run_now().await, &["cannot run service `slow`", "still starting"]);
    });
}

#[tokio::test(start_paused = true)]
async fn run_now_is_an_error_if_the_service_ends_before_the_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    let (run, stop) = soon(async { tokio::join!(service.run_now(), service.stop()) }).await;
    assert_says(run, &["`scripted`", "ended before the requested run"]);
    stop.unwrap();
    assert_eq!(log.count("run"), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_of_run_now_does_not_cancel_the_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    assert!(tokio::time::timeout(secs(1), service.run_now()).await.is_err());
    bed.run_for(secs(20)).await;
    assert_eq!(log.times("run"), [0.0, 10.0]);
}

#[tokio::test(start_paused = true)]
async fn from_within_the_run_run_now_returns_at_once_and_the_next_run_follows() {
    let (bed, log) = (TestBed::new(), Log::default());
    let inner = log.clone();
    bed.start(Acting::new(&log, move |cx| {
        let log = inner.clone();
        async move {
            if cx.run_number() == 1 {
                let me = cx.services().get(cx.service_id()).unwrap();
                let report = me.run_now().await.unwrap();
                log.push(format!("processed {}", report.processed()));
                tokio::time::sleep(secs(2)).await;
            }
        }
    }))
    .await;
    bed.run_for(secs(61)).await;
    assert_eq!(log.times("processed 0"), [0.0]);
    assert_eq!(log.times("run"), [0.0, 2.0, 60.0]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_after_run_now_does_not_cancel_that_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    let (run, pause) = soon(async { tokio::join!(service.run_now(), service.pause()) }).await;
    assert!(run.is_ok() && pause.is_ok());
    bed.run_for(secs(200)).await;
    assert_eq!((service.state(), log.times("run")), (ServiceState::Paused, vec![0.0, 10.0]));
}

/// On the system's clock: the value identifies the run, for example in a table.
#[tokio::test]
async fn a_run_and_its_retries_have_one_scheduled_time() {
    #[derive(Default)]
    struct Twice(Vec<Option<std::time::SystemTime>>);

    #[service(interval = "1h", retry_delay = 0.01, discover = false)]
    impl Twice {
        async fn update(&mut self, cx: &Context) -> Result<()> {
            self.0.extend([cx.scheduled_for(), cx.scheduled_for()]);
            if self.0.len() < 6 {
                return Err(Error::msg("not yet"));
            }
            self.0.dedup();
            if self.0.len() == 1 && self.0[0].is_some() { Ok(()) } else { Err(Error::fatal(format!("{:?}", self.0))) }
        }
    }

    let services = ServiceRegistry::builder().without_discovered().build().await.unwrap();
    let service = services.register_of::<Twice>("twice").start().await.unwrap();
    while service.health().last_success.is_none() {
        assert_ne!(service.state(), ServiceState::Failed, "{:?}", service.health().last_error);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
