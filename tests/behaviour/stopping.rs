//! Stop, at any moment: it waits for the end, cleans up once, and nothing starts after it.

use std::sync::{Arc, Mutex};

use service_core::prelude::*;

use crate::acting::{Acting, Configured, Plan, assert_says, has_line, logged, soon};
use crate::support::{Log, Scripted, Step, act, built, secs};

#[tokio::test(start_paused = true)]
async fn stop_during_backoff_is_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Fail])).await;
    bed.run_for(secs(2)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    soon(service.stop()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!((log.times("run"), log.times("cleanup")), (vec![0.0], vec![2.0]));
    assert_eq!(service.state(), ServiceState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn stop_during_the_initial_delay_runs_nothing() {
    let (bed, log) = (TestBed::new().set("initial_delay", 10), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(4)).await;
    soon(service.stop()).await.unwrap();
    bed.run_for(secs(100)).await;
    assert_eq!((log.count("run"), log.times("cleanup")), (0, vec![4.0]));
}

#[tokio::test(start_paused = true)]
async fn stop_while_paused_cleans_up() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(1)).await;
    service.pause().await.unwrap();
    soon(service.stop()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Stopped);
    assert!(!service.health().paused);
    assert_eq!((log.count("run"), log.times("cleanup")), (1, vec![1.0]));
}

#[tokio::test(start_paused = true)]
async fn stop_during_configure_waits_for_it_and_cleans_up_the_instance() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Take(10.0)]));
    let services = bed.services().await;
    let service = services.register_of::<Configured>("slow").await.unwrap();
    let starting = tokio::spawn({
        let service = service.clone();
        async move { service.start().await }
    });
    bed.run_for(secs(1)).await;
    assert_eq!(service.state(), ServiceState::Starting);
    soon(service.stop()).await.unwrap();
    assert!(starting.await.unwrap().is_ok(), "the caller of `start` is released");
    bed.run_for(secs(100)).await;
    assert_eq!((log.count("run"), log.times("cleanup")), (0, vec![10.0]));
    assert_eq!(service.state(), ServiceState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_configure_that_hangs_is_aborted_by_the_stop() {
    let log = Log::default();
    let bed = TestBed::new().state(Plan::new(&log, &[Step::Hang]));
    let start = tokio::time::Instant::now();
    let service = bed.start_of::<Configured>().await;
    assert_eq!(start.elapsed(), secs(30), "`start` waits no longer than that");
    assert_eq!(service.state(), ServiceState::Starting);
    soon(service.stop()).await.unwrap();
    assert_eq!(start.elapsed(), secs(60), "drain_timeout");
    assert_eq!((log.count("configure"), log.count("cleanup")), (1, 0), "there was no instance");
    assert_eq!(service.state(), ServiceState::Stopped);
    soon(service.start()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
async fn stop_during_cleanup_waits_for_the_same_end() {
    let (bed, log) = (TestBed::new(), Log::default());
    let mut slow = Scripted::new(&log, &[]);
    slow.cleanup = Step::Take(10.0);
    let service = bed.start(slow).await;
    let first = tokio::spawn({
        let service = service.clone();
        async move { service.stop().await }
    });
    bed.run_for(secs(3)).await;
    assert_eq!(service.state(), ServiceState::Draining);
    soon(service.stop()).await.unwrap();
    log.push("stopped");
    assert!(first.await.unwrap().is_ok());
    assert_eq!((log.count("cleanup"), log.times("stopped")), (1, vec![10.0]));
}

#[tokio::test(start_paused = true)]
async fn stop_during_the_cleanup_after_a_failure_leaves_it_failed() {
    let (bed, log) = (TestBed::new(), Log::default());
    let mut slow = Scripted::new(&log, &[Step::Fatal]);
    slow.cleanup = Step::Take(10.0);
    let service = bed.start(slow).await;
    bed.run_for(secs(3)).await;
    soon(service.stop()).await.unwrap();
    log.push("stopped");
    assert_eq!(service.state(), ServiceState::Failed);
    assert_eq!((log.count("cleanup"), log.times("stopped")), (1, vec![10.0]));
}

#[tokio::test(start_paused = true)]
async fn stop_of_a_service_that_does_not_run_succeeds_and_changes_nothing() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let service = services.register("one", Scripted::new(&log, &[Step::Fatal])).await.unwrap();
    soon(service.stop()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Created);
    let _ = service.start().await;
    service.wait_for(ServiceState::Failed).await.unwrap();
    soon(service.stop()).await.unwrap();
    assert_eq!(service.state(), ServiceState::Failed);
    assert_eq!(log.count("cleanup"), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_of_stop_does_not_cancel_the_stop() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    assert!(tokio::time::timeout(secs(1), service.stop()).await.is_err());
    bed.run_for(secs(60)).await;
    assert_eq!(service.state(), ServiceState::Stopped);
    assert_eq!((log.count("run"), log.times("cleanup")), (1, vec![10.0]));
}

#[tokio::test(start_paused = true)]
async fn while_a_service_drains_every_command_but_stop_is_refused() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start(Scripted::new(&log, &[Step::Take(10.0)])).await;
    bed.run_for(secs(1)).await;
    let stop = tokio::spawn({
        let service = service.clone();
        async move { service.stop().await }
    });
    bed.run_for(secs(1)).await;
    let why = &["`scripted`", "stopping"];
    assert_says(service.start().await, why);
    assert_says(service.pause().await, why);
    assert_says(service.resume().await, why);
    assert_says(service.run_now().await, why);
    assert_says(service.reset().await, &["`scripted`", "has not failed", "draining"]);
    assert_eq!(service.state(), ServiceState::Draining);
    stop.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stops_itself_finishes_its_run() {
    let (bed, log) = (TestBed::new(), Log::default());
    let inner = log.clone();
    let service = bed
        .start(Acting::new(&log, move |cx| {
            let log = inner.clone();
            async move {
                let me = cx.services().get(cx.service_id()).unwrap();
                me.stop().await.unwrap();
                cx.stop();
                log.push(format!("stopping {}", cx.is_stopping()));
                tokio::time::sleep(secs(5)).await;
                log.push("end");
            }
        }))
        .await;
    soon(service.wait_for(ServiceState::Stopped)).await.unwrap();
    assert_eq!(log.times("stopping true"), [0.0]);
    assert_eq!((log.times("end"), log.times("cleanup"), log.count("run")), (vec![5.0], vec![5.0], 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_stops_another() {
    let (bed, log) = (TestBed::new(), Log::default());
    let other = bed.start(Scripted::new(&log, &[])).await;
    let acting_log = Log::default();
    bed.start(Acting::new(&acting_log, |cx| async move {
        cx.services().get("scripted").unwrap().stop().await?;
        Ok::<_, Error>(())
    }))
    .await;
    soon(other.wait_for(ServiceState::Stopped)).await.unwrap();
    assert_eq!(log.count("cleanup"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_wakes_a_run_that_waits_for_it() {
    let (bed, log) = (TestBed::new().set("rate_limit", "1/m"), Log::default());
    let inner = log.clone();
    let service = bed
        .start(Acting::new(&log, move |cx| {
            let log = inner.clone();
            async move {
                assert!(cx.permit().await);
                let ((), permit, ()) = tokio::join!(cx.sleep(secs(1000)), cx.permit(), cx.stopping());
                log.push(format!("stopping {} permit {permit}", cx.is_stopping()));
            }
        }))
        .await;
    bed.run_for(secs(7)).await;
    soon(service.stop()).await.unwrap();
    assert_eq!(log.times("stopping true permit false"), [7.0]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cancelled_stays_so_when_a_later_one_is_cancelled() {
    let (bed, log) = (TestBed::new().set("timeout", 1).set("retry_delay", 60), Log::default());
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let kept = contexts.clone();
    let service = bed
        .start(Acting::new(&log, move |cx| {
            let kept = kept.clone();
            async move {
                let runs = {
                    let mut contexts = kept.lock().unwrap();
                    contexts.push(cx.clone());
                    contexts.len()
                };
                // The second one ends in time.
                cx.sleep(secs(if runs == 2 { 0 } else { 10 })).await;
            }
        }))
        .await;
    bed.run_for(secs(125)).await;
    assert_eq!(service.health().runs, 3);
    let over: Vec<bool> = contexts.lock().unwrap().iter().map(Context::is_stopping).collect();
    assert_eq!(over, [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_takes_effect_between_runs_that_follow_at_once() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed
        .start(Acting::new(&log, |_| async {
            tokio::time::sleep(secs(1)).await;
            Outcome::processed(1).again()
        }))
        .await;
    bed.run_for(std::time::Duration::from_millis(3500)).await;
    soon(service.stop()).await.unwrap();
    assert_eq!(log.times("run"), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(log.times("cleanup"), [4.0]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_shortens_the_time_of_a_stop_in_progress() {
    let log = Log::default();
    let bed = TestBed::new().set("drain_timeout", 1000).with(|builder| builder.shutdown_timeout(secs(10)));
    let service = bed.start(Scripted::new(&log, &[Step::Hang])).await;
    bed.run_for(secs(1)).await;
    let stop = tokio::spawn({
        let service = service.clone();
        async move { service.stop().await }
    });
    bed.run_for(secs(1)).await;
    soon(bed.services().await.shutdown()).await.unwrap();
    assert!(log.times("cleanup")[0] <= 12.0, "{:?}", log.lines());
    assert!(stop.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_start_has_an_instance_of_its_own() {
    let (bed, log) = (TestBed::new(), Log::default());
    let service = bed.start_fn(built(&log, |log, _| Scripted::new(log, &[]))).await;
    for _ in 0..2 {
        bed.run_for(secs(1)).await;
        soon(service.stop()).await.unwrap();
        soon(service.start()).await.unwrap();
    }
    bed.run_for(secs(1)).await;
    assert_eq!((log.count("built"), log.count("cleanup"), log.count("run")), (3, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn two_services_that_wait_for_each_others_stop_both_end() {
    let log = Log::default();
    let stops = |other: &'static str| {
        Acting::new(&log, move |cx| async move {
            tokio::time::sleep(secs(1)).await;
            cx.services().get(other).unwrap().stop().await
        })
    };
    let bed = TestBed::new().set("drain_timeout", 5);
    let bed = bed.with(|builder| builder.service("a", stops("b")).service("b", stops("a")));
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    for id in ["a", "b"] {
        soon(services.get(id).unwrap().wait_for(ServiceState::Stopped)).await.unwrap();
    }
    assert_eq!(log.times("cleanup"), [6.0, 6.0]);
}

/// After a stop was requested, a failing run does not make the service `Failed`: it is logged as stopped, and
/// `shutdown` succeeds.
#[tokio::test(start_paused = true)]
async fn a_run_that_fails_while_it_drains_is_logged_as_stopped() {
    for step in [Step::Fail, Step::Fatal, Step::Panic] {
        let (bed, log) = (TestBed::new(), Log::default());
        let (lines, _logging) = logged();
        let service = bed
            .start_fn(built(&log, move |log, _| {
                Acting::new(log, move |cx| async move {
                    cx.stopping().await;
                    act(step).await.map(|_| ())
                })
            }))
            .await;
        bed.run_for(secs(1)).await;
        soon(bed.services().await.shutdown()).await.unwrap();
        assert_eq!((service.state(), log.times("built")), (ServiceState::Stopped, vec![0.0]));
        assert!(has_line(&lines, &["WARN", "[acting]", "run failed, the service stops"]), "{lines:?}");
        assert!(!has_line(&lines, &["ERROR"]), "{lines:?}");
    }
}
