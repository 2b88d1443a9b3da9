//! `reset`: the only way out of `Failed`, with a fresh instance and a count of 0.

use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, assert_says, soon};
use crate::support::{Log, Scripted, Step, built, secs};

#[tokio::test(start_paused = true)]
async fn reset_starts_a_failed_service_with_a_fresh_instance() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start_fn(built(&log, |log, nth| Scripted::new(log, if nth == 1 { &[Step::Fail; 4] } else { &[Step::Fail] })))
        .await;
    soon(service.wait_for(ServiceState::Failed)).await.unwrap();
    assert_eq!(service.health().failures, 4);
    soon(service.reset()).await.unwrap();
    assert_eq!((service.state(), service.health().failures), (ServiceState::Running, 0));
    bed.run_for(secs(1)).await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::BackingOff, 1));
    bed.run_for(secs(10)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!((log.count("built"), log.count("cleanup")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_fails_at_once_returns_the_error() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Fatal, Step::Fatal]));
    let service = bed.services().await.register_of::<Configured>("one").await.unwrap();
    assert_says(service.start().await, &["it is hopeless"]);
    assert_says(soon(service.reset()).await, &["it is hopeless"]);
    assert_eq!(service.state(), ServiceState::Failed);
    soon(service.reset()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn reset_is_refused_if_the_service_has_not_failed() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(10.0), Step::Fail]));
    let services = bed.services().await;
    let service = services.register_of::<Configured>("one").await.unwrap();
    let refused = async |state: ServiceState| {
        assert_eq!(service.state(), state);
        assert_says(service.reset().await, &["cannot reset service `one`", "has not failed", &state.to_string()]);
        assert_eq!(service.state(), state, "and nothing changed");
    };
    refused(ServiceState::Created).await;
    tokio::join!(async { service.start().await.unwrap() }, async {
        bed.run_for(secs(1)).await;
        refused(ServiceState::Starting).await;
    });
    refused(ServiceState::Running).await;
    service.pause().await.unwrap();
    refused(ServiceState::Paused).await;
    service.stop().await.unwrap();
    refused(ServiceState::Stopped).await;
    service.start().await.unwrap();
    refused(ServiceState::BackingOff).await;
}

#[tokio::test(start_paused = true)]
async fn reset_from_within_the_run_builds_a_fresh_instance() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start_fn(built(&log, |log, _| {
            Acting::new(log, |cx| async move {
                if cx.run_number() == 1 {
                    let me = cx.services().get(cx.service_id()).unwrap();
                    me.reset().await.unwrap();
                    tokio::time::sleep(secs(3)).await;
                }
            })
        }))
        .await;
    bed.run_for(secs(61)).await;
    assert_eq!(log.times("built"), [0.0, 3.0]);
    assert_eq!((log.times("cleanup"), log.times("run")), (vec![3.0], vec![0.0, 3.0, 60.0]));
    assert_eq!(service.state(), ServiceState::Running);
}

/// Resets itself in its first run, and leaves something to do.
struct Leaving {
    log: Log,
    fails: bool,
}

#[service(on_demand = true, retry_delay = 30, discover = false)]
impl Leaving {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.log.push("run");
        if cx.run_number() > 1 {
            return Ok(Outcome::idle());
        }
        cx.services().get(cx.service_id()).unwrap().reset().await?;
        if self.fails { Err(Error::msg("the connection is broken")) } else { Ok(Outcome::processed(1).again()) }
    }
}

#[tokio::test(start_paused = true)]
async fn reset_from_within_the_run_keeps_what_the_run_has_left_to_do() {
    for fails in [false, true] {
        let (bed, log) = (TestBed::new(), Log::default());
        let instance = log.clone();
        let service = bed.start_fn(move || Leaving { log: instance.clone(), fails }).await;
        service.wake();
        bed.run_for(secs(60)).await;
        assert_eq!(log.times("run"), [0.0, 0.0]);
    }
}

/// Resets itself in each run.
struct Resetting(Log);

#[service(on_demand = true, discover = false)]
impl Resetting {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        self.0.push("run");
        cx.services().get(cx.service_id()).unwrap().reset().await
    }
}

#[tokio::test(start_paused = true)]
async fn reset_from_within_the_run_makes_no_run_that_was_not_due() {
    for (schedule, expected) in [("on_demand", vec![10.0]), ("cron", vec![10.0, 3_600.0])] {
        let (bed, log) = (TestBed::at(std::time::SystemTime::UNIX_EPOCH), Log::default());
        let services = bed.services().await;
        let instance = log.clone();
        let registration = services.register_fn("resetting", move || Resetting(instance.clone()));
        let options = service_core::ServiceOptions::new();
        let options = if schedule == "cron" { options.cron("0 * * * *") } else { options };
        let service = registration.options(options).start().await.unwrap();
        bed.run_for(secs(10)).await;
        service.wake();
        bed.run_for(secs(3_600)).await;
        assert_eq!(log.times("run"), expected, "{schedule}");
        assert_eq!(service.state(), ServiceState::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn reset_from_within_a_run_that_fails_permanently_builds_a_fresh_instance() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start_fn(built(&log, |log, _| {
            Acting::new(log, |cx| async move {
                if cx.run_number() == 1 {
                    cx.services().get(cx.service_id()).unwrap().reset().await?;
                    return Err(Error::fatal("the connection is gone"));
                }
                Ok(())
            })
        }))
        .await;
    bed.run_for(secs(1)).await;
    assert_eq!((service.state(), service.health().failures), (ServiceState::Running, 0));
    assert_eq!((log.count("built"), log.count("cleanup"), log.count("run")), (2, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_service_resets_another() {
    let (bed, log) = (TestBed::new(), Log::default());
    let failed =
        bed.start_fn(built(&log, |log, nth| Scripted::new(log, if nth == 1 { &[Step::Fatal] } else { &[] }))).await;
    failed.wait_for(ServiceState::Failed).await.unwrap();
    let other = bed
        .start(Acting::new(&Log::default(), |cx| async move { cx.services().get("scripted").unwrap().reset().await }))
        .await;
    bed.run_for(secs(1)).await;
    assert_eq!((failed.state(), other.health().error_count), (ServiceState::Running, 0));
}

#[tokio::test(start_paused = true)]
async fn reset_of_a_ready_made_instance_is_refused() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fatal])).await;
    service.wait_for(ServiceState::Failed).await.unwrap();
    assert_says(service.reset().await, &["`scripted`", "ready-made", "`service_fn`", "`register_fn`"]);
    assert_says(service.start().await, &["`scripted`", "failed", "ready-made", "`reset`", "`service_fn`"]);

    let stopped = bed.services().await.register("stopped", Scripted::new(&log, &[])).await.unwrap();
    stopped.start().await.unwrap();
    stopped.stop().await.unwrap();
    assert_says(stopped.start().await, &["`stopped`", "ready-made", "`service_fn`"]);

    let itself = bed
        .start(Acting::new(&log, |cx| async move {
            let me = cx.services().get(cx.service_id()).unwrap();
            assert_says(me.reset().await, &["`acting`", "ready-made", "`service_fn`"]);
        }))
        .await;
    bed.run_for(secs(1)).await;
    assert_eq!((itself.health().error_count, itself.state()), (0, ServiceState::Running));
}

#[tokio::test(start_paused = true)]
async fn reset_from_cleanup_is_refused() {
    struct Last(Log);

    #[service(interval = 60, discover = false)]
    impl Last {
        fn update(&self) {}

        async fn cleanup(&mut self, cx: &Context) {
            let me = cx.services().get(cx.service_id()).unwrap();
            assert_says(me.reset().await, &["cannot reset service `last`", "stopping"]);
            assert_says(me.run_now().await, &["cannot run service `last`", "stopping"]);
            assert_says(me.start().await, &["cannot start service `last`", "stopping"]);
            me.stop().await.unwrap();
            self.0.push("refused");
        }
    }

    let (bed, log) = (TestBed::new(), Log::default());
    let builder_log = log.clone();
    let service = bed.start_fn(move || Last(builder_log.clone())).await;
    soon(service.stop()).await.unwrap();
    assert_eq!((log.count("refused"), service.state()), (1, ServiceState::Stopped));
}
