//! Cron schedules follow the wall clock: across DST, when the clock is set, and after a suspension.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use service_core::ServiceOptions;
use service_core::prelude::*;

use crate::support::{Log, Scripted, Step, secs};

/// The wall-clock times of its runs, to the second.
type Seen = Arc<Mutex<Vec<String>>>;

struct Nightly(Seen);

#[service(cron = "30 2 * * *", timezone = "Europe/Berlin", discover = false)]
impl Nightly {
    async fn update(&mut self, cx: &Context) {
        let at = cx.services().get(cx.service_id()).and_then(|service| service.health().last_run);
        self.0.lock().unwrap().push(wall(at.unwrap()));
    }
}

fn wall(at: SystemTime) -> String {
    humantime::format_rfc3339(at).to_string().replace('T', " ")[..16].to_owned()
}

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap()
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

#[tokio::test(start_paused = true)]
async fn a_daily_time_that_dst_skips_has_its_run_at_the_end_of_the_skipped_hour() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-03-28T00:00:00Z"));
    let service = bed.start(Nightly(seen.clone())).await;
    assert_eq!(service.health().runs, 0, "not at start");
    assert_eq!(service.health().next_run, Some(at("2026-03-28T01:30:00Z")));
    bed.run_for(hours(72)).await;
    assert_eq!(*seen.lock().unwrap(), ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]);
    let explanation = service.explain();
    assert_eq!(explanation.schedule, "cron 30 2 * * * (Europe/Berlin)");
    let runs: Vec<String> = explanation.next_runs.iter().map(|at| wall(*at)).collect();
    let days = ["2026-03-31 00:30", "2026-04-01 00:30", "2026-04-02 00:30", "2026-04-03 00:30", "2026-04-04 00:30"];
    assert_eq!(runs, days);
}

#[tokio::test(start_paused = true)]
async fn the_next_run_is_the_one_that_waits_for_its_jitter() {
    for seed in 0..10 {
        let seen = Seen::default();
        let bed = TestBed::at(at("2026-06-01T00:00:00Z")).set("jitter", "10m").seed(seed);
        let service = bed.start(Nightly(seen.clone())).await;
        bed.run_for(secs(30 * 60 + 1)).await;
        if service.health().runs == 1 {
            // Its jitter was shorter than a second.
            continue;
        }
        let next = service.health().next_run.unwrap();
        let explained = service.explain().next_runs;
        assert_eq!((explained[0], wall(explained[1]).as_str()), (next, "2026-06-02 00:30"));
        bed.run_for(secs(10 * 60)).await;
        let health = service.health();
        assert_eq!((health.runs, health.last_run.map(wall)), (1, Some(wall(next))), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_daily_time_that_dst_repeats_has_one_run() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-10-24T12:00:00Z"));
    bed.start(Nightly(seen.clone())).await;
    bed.run_for(hours(48)).await;
    assert_eq!(*seen.lock().unwrap(), ["2026-10-25 00:30", "2026-10-26 01:30"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_suspension_one_run_makes_up_for_the_skipped_fires() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-06-01T12:00:00Z"));
    let service = bed.start(Nightly(seen.clone())).await;
    bed.run_for(hours(1)).await;
    bed.set_wall_clock(at("2026-06-04T09:00:00Z")).await;
    bed.run_for(secs(61)).await;
    assert_eq!(*seen.lock().unwrap(), ["2026-06-04 09:01"], "noticed within a minute");
    assert_eq!(service.health().next_run, Some(at("2026-06-05T00:30:00Z")));
    bed.run_for(hours(24)).await;
    assert_eq!(seen.lock().unwrap()[1..], ["2026-06-05 00:30"]);
}

#[tokio::test(start_paused = true)]
async fn no_fire_is_repeated_when_the_clock_is_set_back_by_hours_but_a_year_is_followed() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-06-01T00:00:00Z"));
    bed.start(Nightly(seen.clone())).await;
    bed.run_for(hours(1)).await;
    bed.set_wall_clock(at("2026-06-01T00:10:00Z")).await;
    bed.run_for(hours(1)).await;
    assert_eq!(*seen.lock().unwrap(), ["2026-06-01 00:30"], "half past two is repeated, and there is no second run");
    bed.set_wall_clock(at("2025-06-01T00:10:00Z")).await;
    bed.run_for(hours(1)).await;
    assert_eq!(seen.lock().unwrap()[1..], ["2025-06-01 00:30"]);
}

#[tokio::test(start_paused = true)]
async fn jitter_and_initial_delay_apply_to_cron() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-06-01T00:00:00Z")).set("jitter", "10m").set("initial_delay", "1h").seed(1);
    let service = bed.start(Nightly(seen.clone())).await;
    assert_eq!(service.health().next_run, Some(at("2026-06-02T00:30:00Z")), "not in the initial delay");
    bed.run_for(hours(24 * 20)).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 19, "{seen:?}");
    assert!(seen.iter().all(|at| (" 00:30".." 00:41").contains(&&at[10..])), "{seen:?}");
    assert!(seen.iter().any(|at| !at.ends_with("00:30")), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn run_now_and_pause_do_not_move_the_schedule() {
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-06-01T00:00:00Z"));
    let service = bed.start(Nightly(seen.clone())).await;
    service.run_now().await.unwrap();
    bed.run_for(hours(1)).await;
    assert_eq!(*seen.lock().unwrap(), ["2026-06-01 00:00", "2026-06-01 00:30"]);
    service.pause().await.unwrap();
    bed.run_for(hours(24)).await;
    service.resume().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(seen.lock().unwrap()[2..], ["2026-06-02 01:00"], "a fire during the pause runs at once after it");
    bed.run_for(hours(24)).await;
    assert_eq!(seen.lock().unwrap()[3..], ["2026-06-03 00:30"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_still_running_at_the_next_fire_is_overdue() {
    struct Slow;

    #[service(cron = "*/10 * * * *", discover = false)]
    impl Slow {
        async fn update(&mut self) {
            tokio::time::sleep(hours(1)).await;
        }
    }

    let bed = TestBed::at(at("2026-06-01T00:05:00Z"));
    let service = bed.start(Slow).await;
    bed.run_for(secs(300 + 540)).await;
    assert_eq!(service.health().reason, None);
    bed.run_for(secs(90)).await;
    assert_eq!(service.health().reason.unwrap(), "overdue by 30 s: run 1 has been running for 10 min 30 s");
}

/// Returns the times of the runs of a service that was down from the 1st until noon of the 10th, and up until the 11th.
#[cfg(feature = "database")]
async fn after_nine_days(catch_up: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("fires.db").display());
    let begun = Seen::default();
    let bed = TestBed::at(at("2026-06-01T00:00:00Z")).set("catch_up", catch_up);
    bed.database_url(&url).await;
    let service = bed.start(Nightly(begun.clone())).await;
    bed.run_for(hours(1)).await;
    service.stop().await.unwrap();
    assert_eq!(*begun.lock().unwrap(), ["2026-06-01 00:30"], "nothing to catch up at the very first start");
    drop(bed);
    let seen = Seen::default();
    let bed = TestBed::at(at("2026-06-10T12:00:00Z")).set("catch_up", catch_up);
    bed.database_url(&url).await;
    let service = bed.start(Nightly(seen.clone())).await;
    bed.run_for(hours(24)).await;
    service.stop().await.unwrap();
    seen.lock().unwrap().clone()
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn catch_up_makes_up_none_the_latest_or_all_missed_fires() {
    assert_eq!(after_nine_days("none").await, ["2026-06-11 00:30"]);
    assert_eq!(after_nine_days("latest").await, ["2026-06-10 12:00", "2026-06-11 00:30"]);
    let mut all = vec!["2026-06-10 12:00"; 9];
    all.push("2026-06-11 00:30");
    assert_eq!(after_nine_days("all").await, all);
}

/// Fires every second, and each run takes more than half a second.
#[cfg(feature = "database")]
#[derive(Default)]
struct Busy;

#[cfg(feature = "database")]
#[service(cron = "* * * * * *", catch_up = "all", discover = false)]
impl Busy {
    async fn update(&mut self) {
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn fires_that_come_due_during_the_catch_up_are_made_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("fires.db").display());
    let bed = TestBed::at(at("2026-06-01T00:00:00Z"));
    bed.database_url(&url).await;
    bed.start(Busy).await.stop().await.unwrap();
    drop(bed);
    let bed = TestBed::at(at("2026-06-01T00:00:06Z"));
    bed.database_url(&url).await;
    let service = bed.start(Busy).await;
    // Six fires were missed. Nine more seconds pass until these, and the fires of that time, are made up.
    bed.run_for(Duration::from_millis(14_900)).await;
    assert_eq!(service.health().runs, 20, "one for each second since it was first started");
}

/// Returns the error of building a registry with this schedule.
async fn refused(options: ServiceOptions) -> String {
    let builder = ServiceRegistry::builder().without_discovered();
    let built = builder.service("nightly", Nightly(Seen::default())).options_of("nightly", options).build().await;
    built.err().map_or_else(String::new, |error| error.to_string())
}

#[tokio::test]
async fn the_error_for_a_wrong_schedule_names_its_place() {
    let options = || ServiceOptions::new();
    for (options, expected) in [
        (
            options().cron("61 * * * *"),
            "found \"61 * * * *\", expected a cron expression such as \"0 3 * * *\" (minute field `61`: ",
        ),
        (
            options().cron("0 0 30 2 *"),
            "found \"0 0 30 2 *\", expected a cron expression that fires at some time; this one",
        ),
        (options().timezone("Europe/Berlni"), "found \"Europe/Berlni\", expected a time zone such as"),
        (options().catch_up(service_core::CatchUp::Latest), "needs a database that stores the last fire"),
    ] {
        let error = refused(options).await;
        assert!(error.contains("of service `nightly`") || error.contains("service `nightly`:"), "{error}");
        assert!(error.contains(expected), "{expected} in {error}");
        assert!(error.contains("ServiceOptions at tests/behaviour/cron.rs:"), "{error}");
    }
    assert_eq!(refused(options().cron("0 5 * * *")).await, "");
}

#[tokio::test]
async fn a_wrong_schedule_is_an_error_in_every_layer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    std::fs::write(&file, "[defaults]\ncron = \"0 25 * * *\"\n[nightly]\ntimezone = \"Berlin\"").unwrap();
    let builder = || ServiceRegistry::builder().without_discovered().service("nightly", Nightly(Seen::default()));
    let error = builder().config_file(&file).build().await.unwrap_err().to_string();
    assert!(
        error.contains("`cron` of `[defaults]`") && error.contains("services.toml:2): found \"0 25 * * *\""),
        "{error}"
    );
    assert!(error.contains("`timezone` of service `nightly`") && error.contains("services.toml:4"), "{error}");
    let error = builder().set("nightly.cron", "0 0 31 2 *").build().await.unwrap_err().to_string();
    assert!(error.contains(".set(\"nightly.cron\", …)): found \"0 0 31 2 *\""), "{error}");
}

/// A pool that is away for some seconds must not end every nightly job.
#[tokio::test(start_paused = true)]
async fn a_night_that_fails_is_given_up_and_the_next_night_is_run() {
    let log = Log::default();
    let bed = TestBed::at(at("2026-01-10T12:00:00Z"));
    let nightly = Scripted::new(&log, &[Step::Fail; 6]);
    let service = bed
        .services()
        .await
        .register("nightly", nightly)
        .options(ServiceOptions::new().cron("0 3 * * *").max_failures(1))
        .start()
        .await
        .unwrap();
    bed.run_for(hours(24)).await;
    assert_eq!(log.count("run"), 2);
    assert_eq!((service.state(), service.health().status), (ServiceState::Running, HealthStatus::Unhealthy));
    bed.run_for(hours(48)).await;
    assert_eq!(log.count("run"), 6);
    bed.run_for(hours(24)).await;
    assert_eq!(log.count("run"), 7);
    assert_eq!(service.health().status, HealthStatus::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_run_knows_the_fire_that_it_serves_and_a_woken_run_serves_none() {
    struct Asking(Seen);

    #[service(cron = "0 3 * * *", jitter = "10m", wake_on = ["now"], discover = false)]
    impl Asking {
        async fn update(&mut self, cx: &Context) {
            let scheduled = cx.scheduled_for().map_or_else(|| format!("woken at {}", wall(cx.now())), wall);
            self.0.lock().unwrap().push(scheduled);
        }
    }

    let seen = Seen::default();
    let bed = TestBed::at(at("2026-01-10T12:00:00Z"));
    let service = bed.start(Asking(seen.clone())).await;
    bed.run_for(hours(24)).await;
    bed.services().await.notify("now");
    bed.services().await.notify("another topic");
    bed.run_for(hours(1)).await;
    service.wake();
    bed.run_for(hours(24)).await;
    let expected = ["2026-01-11 03:00", "woken at 2026-01-11 12:00", "woken at 2026-01-11 13:00", "2026-01-12 03:00"];
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// A woken run that lasts, or is retried, until after the next fire does not serve that fire.
#[tokio::test(start_paused = true)]
async fn a_fire_that_comes_due_during_a_woken_run_is_run_after_it() {
    struct Long {
        seen: Seen,
        script: std::vec::IntoIter<Step>,
    }

    #[service(cron = "0 3 * * *", wake_on = ["now"], retry_delay = 15, discover = false)]
    impl Long {
        async fn update(&mut self, cx: &Context) -> Result<Outcome> {
            let scheduled = cx.scheduled_for().map_or_else(|| "woken".to_owned(), wall);
            self.seen.lock().unwrap().push(scheduled);
            crate::support::act(self.script.next().unwrap_or(Step::Succeed)).await
        }
    }

    for (script, woken) in [(vec![Step::Take(20.0)], 1), (vec![Step::Fail], 2)] {
        let seen = Seen::default();
        let bed = TestBed::at(at("2026-01-10T12:00:00Z"));
        bed.start(Long { seen: seen.clone(), script: script.into_iter() }).await;
        bed.run_for(hours(15) - secs(10)).await;
        bed.services().await.notify("now");
        bed.run_for(hours(24)).await;
        let mut expected = vec!["woken"; woken];
        expected.push("2026-01-11 03:00");
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

/// Always has more to do.
struct Greedy;

#[service(interval = 1, discover = false)]
impl Greedy {
    async fn update(&mut self) -> Outcome {
        tokio::time::sleep(secs(100)).await;
        Outcome::processed(1).again()
    }
}

#[tokio::test(start_paused = true)]
async fn a_woken_run_that_waits_for_its_turn_for_long_keeps_its_place() {
    let seen = Seen::default();
    let nightly = Nightly(seen.clone());
    let bed = TestBed::at(at("2026-01-10T12:00:00Z")).with(|builder| {
        let builder = builder.service("one", Greedy).service("two", Greedy).service("nightly", nightly);
        builder.max_concurrent_runs(1)
    });
    let services = bed.start_all().await;
    bed.run_for(secs(10)).await;
    services.get("nightly").unwrap().wake();
    bed.run_for(secs(300)).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
}

/// Notes the fires that its runs serve.
struct Each(Log);

#[service(cron = "* * * * *", discover = false)]
impl Each {
    async fn update(&mut self, cx: &Context) {
        self.0.push(cx.scheduled_for().map_or_else(|| "no fire".to_owned(), wall));
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_run_that_waits_for_its_turn_serves_the_fire_that_comes_due_meanwhile() {
    let log = Log::default();
    let bed = TestBed::at(at("2026-01-01T00:00:00Z")).with(|builder| builder.max_concurrent_runs(1));
    let each = bed.start(Each(log.clone())).await;
    bed.start(Scripted::new(&Log::default(), &[Step::Take(100.0)])).await;
    bed.run_for(secs(30)).await;
    let requested = tokio::spawn(async move { each.run_now().await });
    bed.run_for(secs(80)).await;
    assert!(requested.await.unwrap().unwrap().error().is_none());
    assert_eq!(log.lines(), [(100.0, "2026-01-01 00:01".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_is_overdue_is_the_next_run() {
    let bed = TestBed::at(at("2026-01-01T00:00:30Z")).with(|builder| builder.max_concurrent_runs(1));
    let each = bed.start(Each(Log::default())).await;
    let next_run = || wall(each.health().next_run.unwrap());
    bed.start(Scripted::new(&Log::default(), &[Step::Take(300.0)])).await;
    assert_eq!(next_run(), "2026-01-01 00:01");
    bed.run_for(secs(200)).await;
    assert_eq!(next_run(), "2026-01-01 00:01", "it waits for its turn");
    each.wake();
    bed.run_for(secs(10)).await;
    assert_eq!(next_run(), "2026-01-01 00:01", "and still, after its loop has been woken");
    bed.run_for(secs(100)).await;
    assert_eq!((each.health().runs, next_run()), (1, "2026-01-01 00:06".to_owned()));
}
