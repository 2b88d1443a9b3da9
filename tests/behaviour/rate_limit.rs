//! `rate_limit`: permits are granted in order, and never more than the limit in any period.

use service_core::prelude::*;

use crate::acting::{Acting, soon};
use crate::support::{Log, secs};

#[tokio::test(start_paused = true)]
async fn the_limit_counts_across_runs() {
    let (bed, log) = (TestBed::new().set("rate_limit", "3/s"), Log::default());
    let inner = log.clone();
    bed.start(Acting::new(&log, move |cx| {
        let log = inner.clone();
        async move {
            for _ in 0..4 {
                assert!(cx.permit().await);
                log.push("permit");
            }
            Outcome::processed(4).again()
        }
    }))
    .await;
    bed.run_for(secs(3)).await;
    let times = log.times("permit");
    assert_eq!(times[..8], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0], "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn each_service_has_its_own_limit() {
    let (bed, log) = (TestBed::new().set("rate_limit", "1/m"), Log::default());
    for _ in 0..2 {
        let inner = log.clone();
        bed.start(Acting::new(&log, move |cx| {
            let log = inner.clone();
            async move {
                cx.permit().await;
                log.push("permit");
            }
        }))
        .await;
    }
    bed.run_for(secs(1)).await;
    assert_eq!(log.times("permit"), [0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_permits_are_granted_at_once_until_the_stop() {
    let (bed, log) = (TestBed::new(), Log::default());
    let inner = log.clone();
    let service = bed
        .start(Acting::new(&log, move |cx| {
            let log = inner.clone();
            async move {
                for _ in 0..1000 {
                    assert!(cx.permit().await);
                }
                cx.stop();
                log.push(format!("permit {}", cx.permit().await));
            }
        }))
        .await;
    soon(service.wait_for(ServiceState::Stopped)).await.unwrap();
    assert_eq!(log.times("permit false"), [0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_permit_whose_wait_a_timeout_cancels_is_not_taken() {
    let (bed, log) =
        (TestBed::new().set("rate_limit", "1/m").set("timeout", 10).set("max_failures", 9), Log::default());
    let inner = log.clone();
    bed.start(Acting::new(&log, move |cx| {
        let log = inner.clone();
        async move {
            assert!(cx.permit().await);
            log.push("permit");
            Outcome::processed(1).again()
        }
    }))
    .await;
    bed.run_for(secs(62)).await;
    assert_eq!(log.times("permit"), [0.0, 60.0]);
}
