//! `explain`: the options of a service and their layers, its next runs, and why it does not run now. Compares whole
//! texts, on the paused clock.

#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::time::Duration;

use service_core::prelude::*;
use service_core::{Explanation, Layer, Secret, ServiceOptions};

use crate::support::{Log, Scripted, Step, secs};

#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "only whether it is set counts here")]
struct Settings {
    batch_size: u32,
    dsn: Secret<String>,
    smtp: Smtp,
}

#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "only whether it is set counts here")]
struct Smtp {
    password: String,
}

struct Mailer;

#[service(interval = 30, max_failures = 5, timeout = "2m", discover = false)]
impl Mailer {
    fn configure(_cx: &Context, _settings: Settings) -> Self {
        Self
    }

    async fn update(&mut self, cx: &Context) -> Result<()> {
        match cx.run_number() {
            1 => cx.set_retry_delay(secs(20)),
            4 => return Err(Error::msg("the server is away\nand says so in two lines")),
            _ => {}
        }
        Ok(())
    }
}

const FILE: &str = "[defaults]\nmax_failures = 4\n[mailer]\ninterval = 10\nbatch_size = 7\ndsn = \"db://hunter2\"\n\
                    smtp.password = \"hunter3\"";

fn bed(text: &str) -> (TestBed, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    std::fs::write(&file, text).unwrap();
    (TestBed::new().with(|builder| builder.config_file(file)), folder)
}

/// The text, with the paths of this machine replaced.
fn text(explanation: &Explanation, folder: &tempfile::TempDir) -> String {
    let attribute =
        |descriptor: &service_core::ServiceDescriptor| format!("{}:{}", descriptor.file(), descriptor.line());
    let text = explanation.to_string();
    let text = text.replace(&format!("{}/", folder.path().display()), "");
    let text = text.replace(&attribute(Mailer::DESCRIPTOR), "mailer.rs:20");
    text.replace(&explanation.place, "main.rs:5")
}

#[tokio::test(start_paused = true)]
async fn explain_shows_everything_about_a_service_that_backs_off() {
    let (bed, folder) = bed(FILE);
    let service = bed.start_of::<Mailer>().await;
    bed.run_for(secs(32)).await;
    let explanation = service.explain();
    let expected = "\
mailer: backing_off, degraded
  now       backing off after failure 1 of 5, retrying in 18 s: the server is away
            and says so in two lines
  schedule  every 10s
  acts as   system
  type      behaviour::explain::Mailer
  from      main.rs:5

next runs
  2026-01-01T00:00:50Z  in 18 s
  2026-01-01T00:01:00Z  in 28 s
  2026-01-01T00:01:10Z  in 38 s
  2026-01-01T00:01:20Z  in 48 s
  2026-01-01T00:01:30Z  in 58 s

options
  interval      10s  services.toml:4, instead of 30s (attribute at mailer.rs:20)
  max_failures  5    attribute at mailer.rs:20, instead of 4 (services.toml:2)
  retry_delay   20s  set by the service itself while running
  timeout       2m   attribute at mailer.rs:20

options by default
  wake_on          none
  instances        1
  initial_delay    0s
  jitter           0s
  exhausted        fail
  retry_backoff    1
  max_retry_delay  5m
  drain_timeout    30s
  restart          never
  critical         false
  depends_on       none
  stop_last        false
  needs            none
  rate_limit       none
  enabled          true
  scope            process

settings
  batch_size     services.toml:5
  dsn            services.toml:6
  smtp.password  services.toml:7
";
    assert_eq!(text(&explanation, &folder), expected);
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    for shown in [explanation.to_string(), json, format!("{explanation:?}")] {
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[derive(Default)]
struct Sweeper;

#[service(interval = "1h", discover = false)]
impl Sweeper {
    async fn update(&mut self, cx: &Context) {
        cx.degraded("the disk is nearly full");
        tokio::time::sleep(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn explain_shows_the_overridden_schedule_and_what_the_service_reported() {
    let (bed, folder) = bed("[sweeper]\ndelay = \"10m\"");
    let bed = bed.requester_id("night-shift");
    let service = bed.start_of::<Sweeper>().await;
    bed.run_for(secs(65)).await;
    let attribute = format!("{}:{}", Sweeper::DESCRIPTOR.file(), Sweeper::DESCRIPTOR.line());
    let text = text(&service.explain(), &folder).replace(&attribute, "sweeper.rs:3");
    let expected = "\
sweeper: running, degraded
  why       the disk is nearly full
  now       waiting for the next run, due in 9 min
  schedule  10m after each run
  acts as   night-shift
  type      behaviour::explain::Sweeper
  from      main.rs:5

next runs
  2026-01-01T00:10:05Z  in 9 min
  2026-01-01T00:20:10Z  in 19 min 5 s
  2026-01-01T00:30:15Z  in 29 min 10 s
  2026-01-01T00:40:20Z  in 39 min 15 s
  2026-01-01T00:50:25Z  in 49 min 20 s

options
  delay  10m  services.toml:2, instead of interval = 1h (attribute at sweeper.rs:3)

options by default
";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test(start_paused = true)]
async fn as_json_every_option_has_its_layer() {
    let (bed, _folder) = bed(FILE);
    let service = bed.start_of::<Mailer>().await;
    bed.run_for(secs(5)).await;
    let explanation = service.explain();
    let json = serde_json::to_value(&explanation).unwrap();
    let attribute = format!("attribute at {}:{}", Mailer::DESCRIPTOR.file(), Mailer::DESCRIPTOR.line());
    assert_eq!(json["service_id"], "mailer");
    assert_eq!(json["at"], "2026-01-01T00:00:05.000Z");
    assert_eq!((&json["state"], &json["status"], &json["reason"]), (&"running".into(), &"healthy".into(), &().into()));
    assert_eq!(json["now"], "waiting for the next run, due in 5 s");
    assert_eq!(json["next_runs"][4], "2026-01-01T00:00:50.000Z");
    let timeout = json["options"].as_array().unwrap().iter().find(|option| option["key"] == "timeout").unwrap();
    let expected =
        serde_json::json!({"key": "timeout", "value": "2m", "layer": "attribute", "place": attribute, "hides": []});
    assert_eq!(*timeout, expected);
    let changed = explanation.options.iter().find(|option| option.key == "retry_delay").unwrap();
    assert_eq!((changed.layer, changed.value.as_str()), (Layer::Running, "20s"));
    assert_eq!(json["settings"][2]["key"], "smtp.password");
}

/// The next runs, in seconds from the start of the bed.
fn next_runs(service: &ServiceHandle) -> Vec<f64> {
    let start = std::time::SystemTime::UNIX_EPOCH + secs(1_767_225_600);
    service.explain().next_runs.iter().map(|at| at.duration_since(start).unwrap().as_secs_f64()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_next_runs_are_on_the_grid_after_retries_and_run_now() {
    let bed = TestBed::new().set("jitter", 20).set("initial_delay", 5).seed(3);
    let script = [Step::Succeed, Step::Take(1.0), Step::Succeed, Step::Fail, Step::Take(130.0)];
    let service = bed.start(Scripted::new(&Log::default(), &script)).await;
    bed.run_for(secs(1)).await;
    assert_eq!(next_runs(&service), [5.0, 65.0, 125.0, 185.0, 245.0]);
    bed.run_for(secs(29)).await;
    service.run_now().await.unwrap();
    assert_eq!(next_runs(&service), [65.0, 125.0, 185.0, 245.0, 305.0], "no jitter, and no requested run");
    bed.run_for(secs(60)).await;
    assert_eq!(next_runs(&service), [125.0, 185.0, 245.0, 305.0, 365.0]);
    while service.state() != ServiceState::BackingOff {
        bed.run_for(Duration::from_millis(100)).await;
    }
    let runs = next_runs(&service);
    assert_eq!(runs[1..], [185.0, 245.0, 305.0, 365.0], "{runs:?}");
    assert!(runs[0] > 125.0 && runs[0] < 150.5, "first the retry: {runs:?}");
    while service.health().runs < 5 {
        bed.run_for(secs(1)).await;
    }
    assert_eq!(next_runs(&service), [185.0, 245.0, 305.0, 365.0, 425.0], "while it runs");
}

#[tokio::test(start_paused = true)]
async fn after_a_run_longer_than_the_interval_the_grid_restarts_at_its_end() {
    let bed = TestBed::new();
    let service = bed.start(Scripted::new(&Log::default(), &[Step::Take(100.0)])).await;
    bed.run_for(secs(90)).await;
    assert_eq!(next_runs(&service), [90.0, 150.0, 210.0, 270.0, 330.0], "at once, if the run ended now");
    assert_eq!(service.explain().now, "run 1 has been running for 90 s");
    bed.run_for(secs(20)).await;
    assert_eq!(next_runs(&service), [160.0, 220.0, 280.0, 340.0, 400.0]);
}

#[tokio::test(start_paused = true)]
async fn with_a_delay_the_next_runs_are_estimated_from_the_mean_duration() {
    let bed = TestBed::new().set("delay", 60);
    let service = bed.start(Scripted::new(&Log::default(), &[Step::Take(4.0), Step::Take(4.0)])).await;
    bed.run_for(secs(10)).await;
    assert_eq!(next_runs(&service), [64.0, 128.0, 192.0, 256.0, 320.0]);
    bed.run_for(secs(55)).await;
    assert_eq!(next_runs(&service), [128.0, 192.0, 256.0, 320.0, 384.0], "while it runs");
}

/// Of a cron service. Its runs fail as the script says, and are retried after 30 s.
#[tokio::test(start_paused = true)]
async fn a_fire_that_waits_for_the_retry_of_a_woken_run_is_among_the_next_runs() {
    let bed = TestBed::new();
    let nightly = Scripted::new(&Log::default(), &[Step::Fail, Step::Succeed, Step::Fail]);
    let options = ServiceOptions::new().cron("0 3 * * *").retry_delay(secs(30));
    let service = bed.services().await.register("nightly", nightly).options(options).start().await.unwrap();
    let seconds = || next_runs(&service).into_iter().map(f64::round).collect::<Vec<_>>();
    let fires = [10_800.0, 97_200.0, 183_600.0, 270_000.0, 356_400.0];
    assert_eq!(seconds(), fires);
    bed.run_for(secs(10_790)).await;
    service.wake();
    for _ in 0..2 {
        // Before and after the time of the fire.
        bed.run_for(secs(8)).await;
        assert_eq!(service.state(), ServiceState::BackingOff);
        assert_eq!(seconds(), [10_820.0, 10_820.0, fires[1], fires[2], fires[3]]);
    }
    // The retry succeeds, and the run of the fire fails.
    bed.run_for(secs(20)).await;
    assert_eq!((service.state(), service.health().runs), (ServiceState::BackingOff, 3));
    assert_eq!(seconds(), [10_850.0, fires[1], fires[2], fires[3], fires[4]], "the fire has its run");
}

#[cfg(feature = "database")]
#[derive(Default)]
struct CaughtUp;

#[cfg(feature = "database")]
#[service(cron = "0 3 * * *", catch_up = "latest", initial_delay = "10m", discover = false)]
impl CaughtUp {
    async fn update(&mut self) {}
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn the_run_for_a_missed_fire_is_the_first_of_the_next_runs() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("fires.db").display());
    let bed = TestBed::new();
    bed.database_url(&url).await;
    bed.start_of::<CaughtUp>().await.stop().await.unwrap();
    drop(bed);
    // At 4 of the next day.
    let start = std::time::SystemTime::UNIX_EPOCH + secs(1_767_225_600);
    let bed = TestBed::at(start + secs(28 * 3600));
    bed.database_url(&url).await;
    let service = bed.start_of::<CaughtUp>().await;
    bed.run_for(secs(60)).await;
    let runs = next_runs(&service);
    assert_eq!(runs[0].round(), 28.0 * 3600.0 + 600.0);
    assert_eq!(runs[1..3], [183_600.0, 270_000.0]);
    assert_eq!(Some(service.explain().next_runs[0]), service.health().next_run);
    bed.run_for(secs(600)).await;
    assert_eq!((service.health().runs, next_runs(&service)[0]), (1, 183_600.0));
}

#[tokio::test(start_paused = true)]
async fn explain_says_why_a_service_does_not_run() {
    let never = || Scripted::new(&Log::default(), &[]);
    let bed = TestBed::new().with(|builder| {
        let builder = builder.set("off.enabled", false).set("waiting.depends_on", vec!["backing_off", "off"]);
        builder
            .service("backing_off", Scripted::new(&Log::default(), &[Step::Fail]))
            .service("off", never())
            .service("waiting", never())
            .service("paused", never())
            .service("stopped", never())
            .service("failed", Scripted::new(&Log::default(), &[Step::Fatal]))
    });
    let services = bed.services().await;
    let get = |id: &str| services.get(id).unwrap();
    assert_eq!(get("paused").explain().now, "not started");
    services.start().await.unwrap();
    tokio::time::sleep(secs(1)).await;
    get("paused").pause().await.unwrap();
    get("stopped").stop().await.unwrap();
    let explained = |id: &str| {
        let explanation = get(id).explain();
        (explanation.now, explanation.next_runs.len())
    };
    let expect = |id: &str, now: &str, runs: usize| assert_eq!(explained(id), (now.to_owned(), runs));
    expect("backing_off", "backing off after failure 1 of 3, retrying in 4 s: it failed", 5);
    expect("off", "disabled: `enabled = false` (.set(\"off.enabled\", …))", 0);
    expect("waiting", "waiting for backing_off (backing_off), off (created)", 0);
    expect("paused", "paused by an operator; no scheduled run until `resume`", 0);
    expect("stopped", "stopped", 0);
    expect("failed", "failed: it is hopeless; no run until `reset`", 0);
}

#[tokio::test(start_paused = true)]
async fn a_woken_service_that_waits_for_its_turn_says_so() {
    let log = Log::default();
    let bed = TestBed::new().with(|builder| {
        let busy = Scripted::new(&log, &[Step::Take(100.0)]);
        let woken = Scripted::new(&Log::default(), &[]);
        let builder = builder.service("busy", busy).service("woken", woken).max_concurrent_runs(1);
        builder.options_of("woken", ServiceOptions::new().on_demand(true))
    });
    let services = bed.start_all().await;
    bed.run_for(secs(1)).await;
    services.get("woken").unwrap().wake();
    bed.run_for(secs(1)).await;
    let now = services.get("woken").unwrap().explain().now;
    assert!(now.contains("its turn"), "{now}");
}
