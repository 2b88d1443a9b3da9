//! What operators read: log lines at the right moment, places and times of an explanation, and errors that name what
//! there is.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::time::Duration;

use service_core::prelude::*;

use crate::acting::{Acting, assert_says, has_line, logged, soon};
use crate::support::{Log, secs};

fn idle(log: &Log) -> Acting {
    Acting::new(log, |_| async {})
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_service_is_logged_before_its_stop_returns() {
    let (lines, _guard) = logged();
    let bed = TestBed::new();
    let services = bed.services().await;
    let log = Log::default();
    for how in ["stop", "unregister", "stop_all", "cleanup_all", "shutdown"] {
        services.register(how, idle(&log)).start().await.unwrap();
        lines.lock().unwrap().clear();
        match how {
            "stop" => services.get(how).unwrap().stop().await.unwrap(),
            "unregister" => services.unregister(how).await.unwrap(),
            "stop_all" => services.stop_all().await,
            "cleanup_all" => services.cleanup_all().await,
            _ => services.shutdown().await.unwrap(),
        }
        assert!(has_line(&lines, &["INFO", &format!("[{how}]"), "stopped"]), "{how}: {:?}", lines.lock().unwrap());
    }
}

#[derive(Default)]
struct Hourly;

#[service(interval = 3600, discover = false)]
impl Hourly {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn the_places_of_an_explanation_are_in_the_users_code() {
    let log = Log::default();
    let bed = TestBed::new().set("interval", "2h");
    let services = [
        bed.start_of::<Hourly>().await,
        bed.start(idle(&log)).await,
        bed.start_fn(move || Acting::new(&log, |_| async {})).await,
    ];
    for service in services {
        let explanation = service.explain();
        assert!(explanation.place.contains("operators.rs"), "{explanation}");
        let set = explanation.options.iter().find(|option| option.key == "interval").unwrap();
        assert_eq!(set.value, "2h");
        assert!(!explanation.to_string().contains("service-core/src"), "{explanation}");
    }
}

struct Nightly;

#[service(cron = "30 2 * * *", timezone = "Asia/Tokyo", discover = false)]
impl Nightly {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn the_next_runs_are_shown_in_the_time_zone_of_the_schedule() {
    let bed = TestBed::at(humantime::parse_rfc3339("2026-01-10T12:00:00Z").unwrap());
    let text = bed.start(Nightly).await.explain().to_string();
    assert!(text.contains("2026-01-11 02:30") || text.contains("2026-01-11T02:30"), "{text}");
    assert!(!text.contains("17:30"), "not in UTC: {text}");
}

/// Blocks its thread for longer than its `timeout`, in real time.
#[derive(Default)]
struct Blocking;

#[service(interval = 60, timeout = "50ms", discover = false)]
impl Blocking {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        std::thread::sleep(Duration::from_millis(1_200));
        match cx.service_id() {
            "failing" => Err(Error::msg("scripted")),
            "panicking" => panic!("scripted"),
            _ => Ok(()),
        }
    }
}

/// In real time, because a blocked thread does not move the paused clock.
#[tokio::test]
async fn a_run_that_blocks_its_thread_past_its_timeout_is_a_warning() {
    let (lines, _guard) = logged();
    let ids = ["blocking", "failing", "panicking"];
    let builder = ServiceRegistry::builder().without_discovered();
    let services = ids.iter().fold(builder, |builder, id| builder.service_of::<Blocking>(*id)).build().await.unwrap();
    services.start().await.unwrap();
    for id in ids {
        while services.get(id).unwrap().health().last_run_duration_ms.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let service = format!("[{id}]");
        assert!(has_line(&lines, &["WARN", &service, "blocked its thread"]), "{:?}", lines.lock().unwrap());
    }
    let _ = services.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_missing_state_names_the_types_that_are_present() {
    #[derive(Debug)]
    struct Pool;
    let (bed, log) = (TestBed::new().state(Pool).state(7_u8), Log::default());
    let service = bed
        .start(Acting::new(&log, |cx| async move {
            assert_says(cx.state::<u64>(), &["`u64`", "Pool", "u8"]);
            Ok::<_, Error>(())
        }))
        .await;
    soon(async { bed.run_for(secs(1)).await }).await;
    assert_eq!((service.health().runs, service.health().failures), (1, 0));
}
