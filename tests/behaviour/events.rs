//! `subscribe`: a stream of all events, in order.

use std::pin::{Pin, pin};
use std::task::Poll;

use futures_core::Stream;
use service_core::prelude::*;
use service_core::{ServiceEvent, ServiceEventKind};

use crate::acting::{Acting, soon};
use crate::support::{Log, Scripted, Step, secs};

/// The events so far.
pub(crate) async fn drain(events: &mut (impl Stream<Item = ServiceEvent> + Unpin)) -> Vec<ServiceEvent> {
    let mut all = Vec::new();
    let ready = std::future::poll_fn(|task| {
        while let Poll::Ready(Some(event)) = Pin::new(&mut *events).poll_next(task) {
            all.push(event);
        }
        Poll::Ready(())
    });
    tokio::task::unconstrained(ready).await;
    all
}

fn names(events: &[ServiceEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| match &event.kind {
            ServiceEventKind::StateChanged { from, to } => format!("{from}-{to}"),
            kind => serde_json::to_value(kind).unwrap()["event"].as_str().unwrap().to_owned(),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_service_come_in_order() {
    let (bed, log) = (TestBed::new().set("restart", "on_failure"), Log::default());
    let services = bed.services().await;
    let mut events = services.subscribe();
    let service = services
        .register_fn("one", {
            let log = log.clone();
            move || Scripted::new(&log, &[Step::Succeed, Step::Fail, Step::Succeed, Step::Fatal])
        })
        .await
        .unwrap();
    service.start().await.unwrap();
    bed.run_for(secs(130)).await;
    service.pause().await.unwrap();
    service.resume().await.unwrap();
    soon(service.stop()).await.unwrap();
    services.unregister("one").await.unwrap();
    let events = drain(&mut events).await;
    assert_eq!(
        names(&events),
        [
            "registered",
            "created-starting",
            "instance_built",
            "starting-running",
            "run_started",
            "run_finished",
            "run_started",
            "run_failed",
            "running-backing_off",
            "backing_off-running",
            "run_started",
            "run_finished",
            "run_started",
            "run_failed",
            "instance_ended",
            "restart_scheduled",
            "running-backing_off",
            "backing_off-paused",
            "paused-backing_off",
            "backing_off-draining",
            "draining-stopped",
            "unregistered",
        ]
    );
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            ServiceEventKind::RunFailed { run, error, count, recovery, .. } => {
                Some((*run, error.as_str(), *count, *recovery))
            }
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(2, "it failed", 1, Recovery::Retry), (4, "it is hopeless", 1, Recovery::Fail)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_flat_json() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let mut events = services.subscribe();
    bed.start(Scripted::new(&log, &[Step::Take(1.5)])).await;
    bed.run_for(secs(2)).await;
    let events = drain(&mut events).await;
    let json = serde_json::to_value(events.last().unwrap()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "service_id": "scripted", "at": "2026-01-01T00:00:01.500Z", "event": "run_finished",
            "run": 1, "duration": 1.5, "processed": 1, "failed": 0, "again": false,
        })
    );
}

#[tokio::test(start_paused = true)]
async fn aborted_runs_and_changed_options_are_events() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let mut events = services.subscribe();
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            cx.set_interval(secs(5));
            std::future::pending::<()>().await;
        }))
        .await;
    bed.run_for(secs(1)).await;
    soon(service.stop()).await.unwrap();
    let events = drain(&mut events).await;
    let changed = events.iter().any(
        |event| matches!(&event.kind, ServiceEventKind::OptionChanged { key: "interval", value } if value == "5s"),
    );
    assert!(changed, "{events:?}");
    assert!(names(&events).contains(&"aborted".to_owned()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_gets_the_number_of_lost_events() {
    let (bed, log) = (TestBed::new().set("interval", "10ms"), Log::default());
    let services = bed.services().await;
    let mut slow = services.subscribe();
    bed.start(Scripted::new(&log, &[])).await;
    bed.run_for(secs(60)).await;
    let events = drain(&mut slow).await;
    assert!(matches!(events[0].kind, ServiceEventKind::Lagged { missed: 1.. }), "{:?}", events[0]);
    assert_eq!(events.len(), 4097);
    assert_eq!(events[0].at, events[4096].at, "it has the time of the bed");
}

#[tokio::test(start_paused = true)]
async fn a_stream_wakes_its_reader() {
    let (bed, log) = (TestBed::new(), Log::default());
    let services = bed.services().await;
    let mut events = pin!(services.subscribe());
    bed.start(Scripted::new(&log, &[])).await;
    let mut runs = 0;
    soon(async {
        while runs < 5 {
            let event = std::future::poll_fn(|task| events.as_mut().poll_next(task)).await.unwrap();
            runs += u32::from(matches!(event.kind, ServiceEventKind::RunFinished { .. }));
        }
    })
    .await;
    assert_eq!(log.times("run"), [0.0, 60.0, 120.0, 180.0, 240.0]);
}
