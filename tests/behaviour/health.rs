//! Health: assessed at any moment, against each service's own schedule, with a reason.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::time::{Duration, SystemTime};

use service_core::prelude::*;
use service_core::{HealthStatus, RegistryHealth, ServiceHealth};
use tokio::sync::oneshot;

use crate::support::{Log, Scripted, Step, secs};

/// Status and reason, as an operator reads them.
fn assessed(service: &ServiceHandle) -> String {
    let health = service.health();
    match health.reason {
        Some(reason) => format!("{}: {reason}", health.status),
        None => health.status.to_string(),
    }
}

async fn start(bed: &TestBed, script: &[Step]) -> ServiceHandle {
    bed.start(Scripted::new(&Log::default(), script)).await
}

#[tokio::test(start_paused = true)]
async fn a_run_longer_than_its_interval_is_overdue_and_unhealthy_when_it_is_stuck() {
    let bed = TestBed::new().set("interval", 30);
    let mut script = vec![Step::Take(3.0); 117];
    script.push(Step::Take(1000.0));
    let service = start(&bed, &script).await;
    bed.run_for(secs(117 * 30 + 20)).await;
    assert_eq!(assessed(&service), "healthy", "20 s are long, but within the schedule");
    bed.run_for(secs(15)).await;
    assert_eq!(assessed(&service), "degraded: overdue by 5 s: run 118 has been running for 35 s, usually 3 s");
    bed.run_for(secs(37)).await;
    let health = service.health();
    assert_eq!(health.reason.unwrap(), "overdue by 42 s: run 118 has been running for 72 s, usually 3 s");
    assert_eq!(health.status, HealthStatus::Unhealthy);
    assert_eq!((health.next_run, health.last_run_duration_ms), (None, Some(3000)));
    bed.run_for(secs(930)).await;
    assert_eq!(assessed(&service), "healthy", "the run has ended, and the next one is due");
}

#[tokio::test(start_paused = true)]
async fn with_a_delay_a_run_is_stuck_when_it_takes_much_longer_than_usual() {
    let bed = TestBed::new().set("delay", 30);
    let service = start(&bed, &[Step::Take(3.0), Step::Take(3.0), Step::Hang]).await;
    bed.run_for(secs(66 + 60)).await;
    assert_eq!(assessed(&service), "healthy");
    bed.run_for(secs(12)).await;
    assert_eq!(assessed(&service), "degraded: stuck: run 3 has been running for 72 s, usually 3 s");
}

#[tokio::test(start_paused = true)]
async fn a_first_run_is_stuck_after_ten_minutes() {
    let bed = TestBed::new().set("delay", 30);
    let service = start(&bed, &[Step::Hang]).await;
    bed.run_for(secs(600)).await;
    assert_eq!(assessed(&service), "healthy");
    bed.run_for(secs(60)).await;
    assert_eq!(assessed(&service), "degraded: stuck: run 1 has been running for 11 min");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_been_stuck_for_ten_minutes_is_unhealthy() {
    for (key, value, begins) in [("delay", "30s", 0), ("cron", "0 3 * * *", 3 * 3_600)] {
        let bed = TestBed::new().set(key, value);
        let service = start(&bed, &[Step::Hang]).await;
        bed.run_for(secs(begins + 20 * 60)).await;
        assert_eq!(assessed(&service), "degraded: stuck: run 1 has been running for 20 min", "{key}");
        bed.run_for(secs(60)).await;
        assert_eq!(assessed(&service), "unhealthy: stuck: run 1 has been running for 21 min", "{key}");
    }
    let bed = TestBed::new().set("delay", 30);
    let service = start(&bed, &[Step::Take(3.0), Step::Take(3.0), Step::Hang]).await;
    // Run 3 begins at 66 s, and is stuck after 60 s.
    bed.run_for(secs(66 + 60 + 590)).await;
    assert_eq!(service.health().status, HealthStatus::Degraded);
    bed.run_for(secs(20)).await;
    assert_eq!(service.health().status, HealthStatus::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn the_reason_has_the_failure_and_the_next_retry() {
    let bed = TestBed::new();
    let service = start(&bed, &[Step::Succeed, Step::Fail, Step::Fail, Step::Take(9.0)]).await;
    bed.run_for(secs(62)).await;
    assert_eq!(assessed(&service), "degraded: backing off after failure 1 of 3, retrying in 3 s: it failed");
    let health = service.health();
    let began = SystemTime::UNIX_EPOCH + secs(1_767_225_600);
    assert_eq!((health.last_run, health.next_run), (Some(began + secs(60)), Some(began + secs(65))));
    bed.run_for(secs(11)).await;
    assert_eq!(assessed(&service), "degraded: retrying after failure 2 of 3; last success 73 s ago: it failed");
    bed.run_for(secs(9)).await;
    assert_eq!(assessed(&service), "healthy");
    assert_eq!(service.health().last_error.as_deref(), Some("it failed"), "it is kept");
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_failed_service_has_the_count_and_whether_it_is_critical() {
    let bed = TestBed::new();
    let tired = start(&bed, &[Step::Fail; 9]).await;
    let hopeless = start(&bed, &[Step::Fatal]).await;
    bed.run_for(secs(60)).await;
    assert_eq!(assessed(&tired), "unhealthy: failed after 4 failures in a row: it failed");
    assert_eq!(assessed(&hopeless), "unhealthy: failed: it is hopeless");
    let bed = TestBed::new().set("critical", true);
    let critical = start(&bed, &[Step::Fatal]).await;
    bed.run_for(secs(1)).await;
    let expected = "unhealthy: failed (critical: the registry shuts down): it is hopeless";
    assert_eq!(assessed(&critical), expected);
}

#[tokio::test(start_paused = true)]
async fn the_reason_announces_a_restart() {
    let bed = TestBed::new().set("restart", "on_failure");
    let service = bed.start_fn(|| Scripted::new(&Log::default(), &[Step::Fatal])).await;
    bed.run_for(secs(15)).await;
    assert_eq!(assessed(&service), "unhealthy: failed, restarting with a fresh instance in 45 s: it is hopeless");
}

#[tokio::test(start_paused = true)]
async fn the_reason_says_who_paused_the_service() {
    struct Pausing;

    #[service(interval = 5, discover = false)]
    impl Pausing {
        async fn update(&mut self, cx: &Context) {
            if cx.run_number() == 2 {
                cx.pause();
            }
        }
    }

    let bed = TestBed::new();
    let by_itself = bed.start(Pausing).await;
    let service = start(&bed, &[Step::Take(9.0)]).await;
    bed.run_for(secs(5)).await;
    service.pause().await.unwrap();
    assert_eq!(assessed(&service), "degraded: paused by an operator, and run 1 has been running for 5 s");
    assert_eq!(assessed(&by_itself), "degraded: paused by itself");
    bed.run_for(secs(5)).await;
    assert_eq!(assessed(&service), "degraded: paused by an operator");
    let health = service.health();
    assert!(health.paused && health.running && health.next_run.is_none());
    service.resume().await.unwrap();
    assert_eq!(assessed(&service), "healthy");
}

#[tokio::test(start_paused = true)]
async fn a_degradation_that_the_service_reports_lasts_until_the_next_run() {
    struct Behind;

    #[service(interval = 30, discover = false)]
    impl Behind {
        async fn update(&mut self, cx: &Context) {
            if cx.run_number() == 1 {
                cx.degraded("2,000 mails wait");
            }
            cx.metrics().set("queue_depth", 2000);
        }
    }

    let bed = TestBed::new();
    let service = bed.start(Behind).await;
    bed.run_for(secs(29)).await;
    assert_eq!(assessed(&service), "degraded: 2,000 mails wait");
    assert_eq!(service.health().metrics["queue_depth"], 2000.0);
    bed.run_for(secs(1)).await;
    assert_eq!(assessed(&service), "healthy");
}

/// What a `run` has left behind reports nothing of the next one.
#[tokio::test(start_paused = true)]
async fn a_degradation_that_an_earlier_run_reports_is_ignored() {
    struct Leaky;

    #[service(retry_delay = 10, discover = false)]
    impl Leaky {
        async fn run(&mut self, cx: &Context) -> Result {
            if cx.run_number() > 1 {
                cx.stopping().await;
                return Ok(());
            }
            let left = cx.clone();
            tokio::spawn(async move {
                tokio::time::sleep(secs(20)).await;
                left.degraded("the stream is behind");
            });
            cx.degraded("the stream is slow");
            cx.sleep(secs(5)).await;
            Err(Error::msg("the stream has ended"))
        }
    }

    let bed = TestBed::new();
    let service = bed.start_fn(|| Leaky).await;
    bed.run_for(secs(1)).await;
    assert_eq!(assessed(&service), "degraded: the stream is slow");
    // The second run is stable after a minute.
    bed.run_for(secs(100)).await;
    assert_eq!((assessed(&service).as_str(), service.health().runs), ("healthy", 2));
}

#[tokio::test(start_paused = true)]
async fn the_reason_names_a_dependency_and_a_slow_start() {
    struct Slow;

    #[service(interval = 30, discover = false)]
    impl Slow {
        async fn configure() -> Self {
            tokio::time::sleep(secs(3600)).await;
            Self
        }

        async fn update(&mut self) {}
    }

    let bed = TestBed::new().with(|builder| builder.set("scripted.depends_on", vec!["slow"]));
    let services = bed.with(|builder| builder.service_of::<Slow>("slow").service("scripted", never())).services().await;
    let starting = tokio::spawn({
        let services = services.clone();
        async move { services.start().await }
    });
    tokio::time::sleep(secs(1)).await;
    let (slow, waiting) = (services.get("slow").unwrap(), services.get("scripted").unwrap());
    assert_eq!(assessed(&slow), "healthy: starting");
    assert_eq!(assessed(&waiting), "degraded: waiting for slow");
    tokio::time::sleep(secs(44)).await;
    assert_eq!(assessed(&slow), "degraded: still starting: `configure` has been running for 45 s");
    tokio::time::sleep(secs(600)).await;
    assert_eq!(assessed(&slow), "unhealthy: still starting: `configure` has been running for 10 min 45 s");
    tokio::time::sleep(secs(3600)).await;
    assert_eq!((assessed(&slow), assessed(&waiting)), ("healthy".to_owned(), "healthy".to_owned()));
    starting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_configure_of_a_later_instance_that_takes_long_is_not_healthy() {
    struct Rebuilt {
        /// It is the first instance.
        first: bool,
    }

    #[service(interval = 30, discover = false)]
    impl Rebuilt {
        async fn configure(cx: &Context) -> Self {
            let first = cx.services().get(cx.service_id()).unwrap().health().runs == 0;
            if !first {
                tokio::time::sleep(secs(3600)).await;
            }
            Self { first }
        }

        async fn update(&mut self, cx: &Context) -> Result<()> {
            match self.first {
                true => cx.services().get(cx.service_id()).unwrap().reset().await,
                false => Ok(()),
            }
        }
    }

    let bed = TestBed::new();
    let service = bed.start_of::<Rebuilt>().await;
    bed.run_for(secs(20)).await;
    assert_eq!(assessed(&service), "healthy");
    assert_eq!(service.explain().now, "`configure` of a fresh instance has been running for 20 s");
    assert_eq!(service.health().next_run, None, "the run was due 20 s ago, and follows the `configure`");
    bed.run_for(secs(25)).await;
    assert_eq!(assessed(&service), "degraded: `configure` of a fresh instance has been running for 45 s");
    bed.run_for(secs(600)).await;
    assert_eq!(assessed(&service), "unhealthy: `configure` of a fresh instance has been running for 10 min 45 s");
    bed.run_for(secs(3000)).await;
    assert_eq!(assessed(&service), "healthy");
    assert_eq!(service.health().runs, 3);
}

fn never() -> Scripted {
    Scripted::new(&Log::default(), &[])
}

#[tokio::test(start_paused = true)]
async fn a_stopped_service_that_should_run_is_not_healthy() {
    struct Once;

    #[service(interval = 30, discover = false)]
    impl Once {
        async fn update(&mut self, cx: &Context) {
            cx.stop();
        }
    }

    struct StopsAndFails;

    #[service(interval = 30, discover = false)]
    impl StopsAndFails {
        async fn update(&mut self, cx: &Context) -> Result<()> {
            cx.stop();
            Err(Error::msg("account locked"))
        }
    }

    struct FailsFirst(bool);

    #[service(retry_delay = 1, discover = false)]
    impl FailsFirst {
        async fn run(&mut self, cx: &Context) -> Result<()> {
            if std::mem::take(&mut self.0) {
                return Err(Error::msg("the peer is busy"));
            }
            cx.stop();
            Ok(())
        }
    }

    let bed = TestBed::new().with(|builder| builder.set("off.enabled", false).service("off", never()));
    let services = bed.services().await;
    let off = services.get("off").unwrap();
    services.start().await.unwrap();
    assert_eq!(assessed(&off), "healthy: disabled");
    let new = services.register("new", never()).await.unwrap();
    assert_eq!(assessed(&new), "degraded: not started");
    let stopped = start(&bed, &[]).await;
    stopped.stop().await.unwrap();
    assert_eq!(assessed(&stopped), "degraded: stopped");
    let mut giving_up = Scripted::new(&Log::default(), &[Step::Fail]);
    giving_up.recovery = Some(|_| Recovery::Stop);
    let giving_up = bed.start(giving_up).await;
    let done = bed.start(Once).await;
    let failed = bed.start(StopsAndFails).await;
    let repaired = bed.start(FailsFirst(true)).await;
    bed.run_for(secs(2)).await;
    assert_eq!((repaired.health().runs, assessed(&repaired).as_str()), (2, "healthy: stopped itself"));
    assert_eq!(assessed(&failed), "unhealthy: stopped itself after a failure: account locked");
    assert_eq!(assessed(&giving_up), "unhealthy: stopped itself after a failure: it failed");
    assert_eq!(assessed(&done), "healthy: stopped itself");
}

/// It never reports that it is ready, and its failures are ignored.
#[tokio::test(start_paused = true)]
async fn a_run_that_fails_again_and_again_before_it_is_ready_is_not_healthy() {
    #[derive(Default)]
    struct Refused;

    #[service(readiness = "explicit", retry_delay = 1, discover = false)]
    impl Refused {
        async fn run(&mut self) -> Result<()> {
            Err(Error::msg("connection refused"))
        }

        fn on_failure(&mut self, _failure: &Failure) -> Recovery {
            Recovery::Ignore
        }
    }

    let bed = TestBed::new();
    let service = bed.start_of::<Refused>().await;
    bed.run_for(secs(3)).await;
    let assessed = assessed(&service);
    assert!(assessed.starts_with("degraded: ") && assessed.contains("connection refused"), "{assessed}");
    assert_ne!(service.state(), ServiceState::Starting);
    assert!(service.explain().next_runs.is_empty());
}

/// Its first failure is ignored, and its second `run` never connects.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_never_ready_after_an_ignored_failure_is_not_healthy() {
    struct Connects;

    #[service(readiness = "explicit", retry_delay = 1, discover = false)]
    impl Connects {
        async fn run(&mut self, cx: &Context) -> Result<()> {
            if cx.run_number() == 1 {
                return Err(Error::msg("connection refused"));
            }
            std::future::pending().await
        }

        fn on_failure(&mut self, _failure: &Failure) -> Recovery {
            Recovery::Ignore
        }
    }

    let bed = TestBed::new();
    let service = bed.start(Connects).await;
    bed.run_for(secs(41)).await;
    assert_eq!(
        assessed(&service),
        "degraded: not ready: its `run` has not called `ready` for 40 s: connection refused"
    );
    bed.run_for(secs(600)).await;
    assert!(assessed(&service).starts_with("unhealthy: not ready: "), "{}", assessed(&service));
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_run_was_given_up_stays_unhealthy_in_a_pause() {
    let bed = TestBed::new().set("max_failures", 0).set("exhausted", "next_run");
    let service = bed.start(Scripted::new(&Log::default(), &[Step::Fail])).await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(assessed(&service), "unhealthy: paused by an operator; the last run was given up: it failed");
}

#[tokio::test]
async fn a_blocking_run_that_does_not_return_is_unhealthy() {
    struct Blocking(Option<oneshot::Receiver<()>>);

    // The timeout is enough for the start of a thread on a busy machine.
    #[service(interval = 60, timeout = 0.5, retry_delay = 0.01, discover = false)]
    impl Blocking {
        fn update(&mut self) {
            if let Some(gate) = self.0.take() {
                let _ = gate.blocking_recv();
            }
        }
    }

    let (open, gate) = oneshot::channel();
    let bed = TestBed::new();
    let service = bed.start(Blocking(Some(gate))).await;
    service.wait_for(ServiceState::BackingOff).await.unwrap();
    assert_eq!(service.health().next_run, None, "no retry begins before the run returns");
    let assessed = assessed(&service);
    assert!(assessed.starts_with("unhealthy: blocking run 1 timed out and has not returned after"), "{assessed}");
    open.send(()).unwrap();
    service.wait_for(ServiceState::Running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_status_of_the_registry_is_that_of_its_worst_service() {
    let bed = TestBed::new();
    let services = bed.services().await;
    assert_eq!(services.health().status, HealthStatus::Healthy);
    start(&bed, &[]).await;
    assert_eq!(services.health().status, HealthStatus::Healthy);
    let paused = start(&bed, &[]).await;
    paused.pause().await.unwrap();
    assert_eq!(services.health().status, HealthStatus::Degraded);
    start(&bed, &[Step::Fatal]).await;
    bed.run_for(secs(1)).await;
    let health = services.health();
    assert_eq!((health.status, health.services.len()), (HealthStatus::Unhealthy, 3));
    assert_eq!(health.get(paused.id()), Some(&paused.health()));
}

#[tokio::test(start_paused = true)]
async fn health_survives_json() {
    let bed = TestBed::new();
    let service = start(&bed, &[Step::Take(1.5), Step::Fail]).await;
    bed.run_for(Duration::from_millis(61_250)).await;
    let health = service.health();
    let json = serde_json::to_value(&health).unwrap();
    let expected = serde_json::json!({
        "service_id": "scripted",
        "labels": {},
        "state": "backing_off",
        "status": "degraded",
        "reason": "backing off after failure 1 of 3, retrying in 3.8 s: it failed",
        "running": true,
        "paused": false,
        "failures": 1,
        "max_failures": 3,
        "last_run": "2026-01-01T00:01:00.000Z",
        "last_success": "2026-01-01T00:00:01.500Z",
        "next_run": "2026-01-01T00:01:05.000Z",
        "last_run_duration_ms": 0,
        "last_error": "it failed",
        "total_processed": 1,
        "total_failed": 0,
        "error_count": 1,
        "runs": 2,
        "restarts": 0,
        "metrics": {},
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<ServiceHealth>(json).unwrap(), health);
    let all = bed.services().await.health();
    assert_eq!(serde_json::from_str::<RegistryHealth>(&serde_json::to_string(&all).unwrap()).unwrap(), all);
    let fresh = bed.services().await.register("fresh", never()).await.unwrap().health();
    let text = serde_json::to_string(&fresh).unwrap();
    assert!(
        text.contains("\"last_run\":null,\"last_success\":null,\"next_run\":null,\"last_run_duration_ms\":null"),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<ServiceHealth>(&text).unwrap(), fresh);
}
