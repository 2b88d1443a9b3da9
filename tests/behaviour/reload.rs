//! `reload`: `services.toml` is read again while the services run.

use std::path::PathBuf;

use service_core::Layer;
use service_core::prelude::*;

use crate::acting::{Acting, assert_says, has_line, logged, soon};
use crate::support::{Log, Scripted, secs};

/// A bed whose `services.toml` can be written again.
struct WithFile {
    bed: TestBed,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl WithFile {
    fn new(bed: TestBed, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("services.toml");
        std::fs::write(&file, text).unwrap();
        let name = file.clone();
        Self { bed: bed.with(|builder| builder.config_file(name)), file, _folder: folder }
    }

    async fn reload(&self, text: &str) -> Result<()> {
        std::fs::write(&self.file, text).unwrap();
        self.bed.services().await.reload().await
    }
}

#[derive(Clone, serde::Deserialize)]
struct Settings {
    size: u32,
}

/// Logs the setting that it was built with, at each run.
struct Batcher {
    log: Log,
    size: u32,
}

#[service(interval = 60, discover = false)]
impl Batcher {
    fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        Ok(Self { log: cx.state::<Log>()?.clone(), size: settings.size })
    }

    async fn update(&mut self) {
        self.log.push(format!("run {}", self.size));
    }

    async fn cleanup(&mut self) {
        self.log.push(format!("cleanup {}", self.size));
    }
}

/// Continues until a stop is requested.
struct Consumer {
    log: Log,
    size: u32,
}

#[service(discover = false)]
impl Consumer {
    fn configure(cx: &Context, settings: Settings) -> Result<Self> {
        Ok(Self { log: cx.state::<Log>()?.clone(), size: settings.size })
    }

    async fn run(&mut self, cx: &Context) {
        self.log.push(format!("consumes {}", self.size));
        cx.stopping().await;
        self.log.push(format!("ends {}", self.size));
    }
}

fn lines(log: &Log) -> Vec<String> {
    log.lines().into_iter().map(|(at, line)| format!("{at} {line}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_changed_option_takes_effect_in_the_current_wait() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new(), "[scripted]\ninterval = 50");
    let service = file.bed.start(Scripted::new(&log, &[])).await;
    file.bed.run_for(secs(20)).await;
    file.reload("\n\n[scripted]\ninterval = 30").await.unwrap();
    file.bed.run_for(secs(40)).await;
    assert_eq!(log.times("run"), [0.0, 30.0, 60.0]);
    let explanation = service.explain();
    let interval = explanation.options.iter().find(|option| option.key == "interval").unwrap();
    assert!(interval.place.ends_with("services.toml:4"), "{}", interval.place);
    // Without the section, the lower layer applies again.
    file.reload("").await.unwrap();
    assert_eq!(service.explain().schedule, "every 1m");
}

#[tokio::test(start_paused = true)]
async fn a_changed_rate_limit_holds_for_the_calls_that_wait() {
    let limit = |limit: &str| format!("[acting]\nrate_limit = \"{limit}\"");
    let (file, log) = (WithFile::new(TestBed::new(), &limit("1/h")), Log::default());
    let inner = log.clone();
    let service = Acting::new(&log, move |cx| {
        let log = inner.clone();
        async move {
            for _ in 0..3 {
                cx.permit().await;
                log.push("permit");
            }
        }
    });
    file.bed.start(service).await;
    file.bed.run_for(secs(5)).await;
    file.reload(&limit("1/m")).await.unwrap();
    file.bed.run_for(secs(60)).await;
    file.reload(&limit("100/s")).await.unwrap();
    file.bed.run_for(secs(1)).await;
    assert_eq!(log.times("permit")[..3], [0.0, 60.0, 65.0]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_builds_a_fresh_instance_between_two_runs() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new().state(log.clone()), "[batcher]\nsize = 1");
    let service = file.bed.start_of::<Batcher>().await;
    file.bed.run_for(secs(20)).await;
    file.reload("# a comment moves the lines\n[batcher]\nsize = 1").await.unwrap();
    file.bed.run_for(secs(20)).await;
    assert_eq!(log.count("cleanup 1"), 0, "the settings are the same");
    file.reload("[batcher]\nsize = 2").await.unwrap();
    file.bed.run_for(secs(20)).await;
    assert_eq!(lines(&log), ["0 run 1", "40 cleanup 1", "60 run 2"]);
    assert_eq!(service.health().error_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_ends_a_long_run_and_begins_another() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new().state(log.clone()), "[consumer]\nsize = 1");
    let service = file.bed.start_of::<Consumer>().await;
    file.bed.run_for(secs(20)).await;
    file.reload("[consumer]\nsize = 1\nmax_failures = 9").await.unwrap();
    file.bed.run_for(secs(20)).await;
    assert_eq!((lines(&log), service.health().max_failures), (vec!["0 consumes 1".to_owned()], Some(9)));
    file.reload("[consumer]\nsize = 2").await.unwrap();
    file.bed.run_for(secs(20)).await;
    assert_eq!(lines(&log), ["0 consumes 1", "40 ends 1", "40 consumes 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_with_a_mistake_changes_nothing() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone());
    let file = WithFile::new(bed, "[batcher]\nsize = 1\n[scripted]\ninterval = 50");
    let batcher = file.bed.start_of::<Batcher>().await;
    let scripted = file.bed.start(Scripted::new(&log, &[])).await;
    for (text, parts) in [
        ("[scripted]\ninterval = 10\n[batcher\n", &["services.toml:3"][..]),
        ("[scripted]\ninterval = 10\n[defaults]\nretry_delay = -1", &["`retry_delay` of `[defaults]`"]),
        (
            "[scripted]\ninterval = 10\n[batcher]\nsize = 1\ninterval = 0",
            &["`interval` of service `batcher`", "found 0"],
        ),
        ("[scripted]\ninterval = 10\n[batcher]\nsize = 1\nsiez = 2", &["`siez`", "did you mean `size`?"]),
        ("[scripted]\ninterval = 10\n[batcher]\nsize = \"many\"", &["`size` of service `batcher`", "found \"many\""]),
        ("[scripted]\ninterval = 10", &["`size` of service `batcher` is missing"]),
        ("[scripted]\nrestart = \"on_failure\"\n[batcher]\nsize = 1", &["`restart", "`service_fn`"]),
        ("[batcher]\nsize = 1\ninstances = 0", &["`instances` of service `batcher`", "found 0", "from 1 to 10000"]),
        ("[batcher]\nsize = 1\nenabled = \"maybe\"", &["`enabled` of service `batcher`", "services.toml:3"]),
        ("[batcher]\nsize = 1\ndepends_on = [\"scripde\"]", &["depends on `scripde`", "did you mean `scripted`?"]),
        ("[batcher]\nsize = 1\ndepends_on = [\"batcher\"]", &["in a cycle: batcher -> batcher"]),
        ("[batcher]\nsize = 1\nneeds = [\"broker\"]", &["`needs` of service `batcher` (", "the probe `broker`"]),
        ("[batcher]\nsize = 1\nlease = 10", &["`lease` of service `batcher`", "needs `scope = \"cluster\"`"]),
    ] {
        let refused = file.reload(text).await;
        assert_says(refused, &[parts, &["nothing was changed"]].concat());
        file.bed.run_for(secs(1)).await;
        assert_eq!((scripted.explain().schedule, batcher.explain().schedule), ("every 50s".into(), "every 1m".into()));
    }
    std::fs::remove_file(&file.file).unwrap();
    let gone = file.bed.services().await.reload().await;
    assert_says(gone, &["the file does not exist", "nothing was changed"]);
    assert_eq!(log.count("cleanup 1"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_restart_is_said_in_one_warning() {
    let log = Log::default();
    let state = log.clone();
    let bed = TestBed::new().with(|builder| {
        builder
            .state(state)
            .service_of::<Batcher>("batcher")
            .service("ready_made", Batcher { log: log.clone(), size: 0 })
            .service("other", Scripted::new(&log, &[]))
            .service_of::<Packer>("packer")
    });
    let before = "[batcher]\nsize = 1\n[other]\nenabled = false";
    let file = WithFile::new(bed, before);
    let services = file.bed.services().await;
    soon(services.start()).await.unwrap();
    file.bed.run_for(secs(1)).await;
    let (logged, _guard) = logged();
    let after = "[batcher]\nsize = 2\ndepends_on = [\"other\"]\nenabled = false\n[other]\nenabled = true\n[packer]\ninstances = 3";
    file.reload(after).await.unwrap();
    file.bed.run_for(secs(100)).await;
    let parts = [
        "need a restart",
        "`instances` of `packer` (",
        "`depends_on` of service `batcher` (",
        "`enabled` of service `batcher` (",
        "services.toml:4)",
        "`enabled` of service `other` (",
        "the settings of service `ready_made`",
    ];
    assert!(has_line(&logged, &parts), "{logged:?}");
    let warnings = || logged.lock().unwrap().iter().filter(|line| line.contains("need a restart")).count();
    assert_eq!(warnings(), 1);
    file.reload(&format!("# another line\n{after}")).await.unwrap();
    assert_eq!(warnings(), 1, "the changes are the same");
    assert_eq!(services.list(), ["batcher", "other", "packer", "ready_made"]);
    assert_eq!(services.get("other").unwrap().state(), ServiceState::Created);
    let batcher = services.get("batcher").unwrap();
    assert_eq!(batcher.state(), ServiceState::Running);
    let shown = batcher.explain().to_string();
    assert!(shown.contains("\n  depends_on       none\n"), "{shown}");
    let shown = services.get("packer").unwrap().explain().to_string();
    assert!(shown.contains("\n  instances        1\n"), "{shown}");
    assert!(log.count("run 2") > 0, "the other changes take effect: {:?}", log.lines());
    assert_eq!(log.count("cleanup 0"), 0, "the ready-made instance stays");
    // What the file had at the start counts until the end of the program.
    soon(services.stop_all()).await;
    soon(services.start()).await.unwrap();
    assert_eq!(
        (batcher.state(), services.get("other").unwrap().state()),
        (ServiceState::Running, ServiceState::Created)
    );
    // The file as it was: nothing needs a restart.
    logged.lock().unwrap().clear();
    file.reload(before).await.unwrap();
    assert!(!has_line(&logged, &["`batcher`"]), "{logged:?}");
}

/// Also for the keys that are read only at the start.
#[tokio::test(start_paused = true)]
async fn a_file_that_the_next_start_would_refuse_is_refused() {
    let log = Log::default();
    let bed = TestBed::new().state(log.clone());
    let bed =
        bed.with(|builder| builder.service("ready_made", Scripted::new(&log, &[])).service_of::<Batcher>("batcher"));
    let file = WithFile::new(bed, "[batcher]\nsize = 1");
    let services = file.bed.services().await;
    for (text, parts) in [
        (
            "[batcher]\nsize = 1\n[ready_made]\nscope = \"cluster\"",
            ["`ready_made`", "needs a fresh instance after each takeover"],
        ),
        ("[batcher]\nsize = 1\n[scripted]\ninstances = 4", ["`ready_made`", "`instances = 4`"]),
        ("[batcher]\nsize = 1\nscope = \"cluster\"", ["`batcher`", "needs a database that all replicas share"]),
    ] {
        assert_says(file.reload(text).await, &parts);
    }
    // A service that is registered while the registry runs is one, whatever `instances` is.
    let later = services.register("later", Acting::new(&log, |_cx| async {})).await.unwrap();
    file.reload("[batcher]\nsize = 2\n[acting]\ninstances = 4").await.unwrap();
    assert_eq!(later.explain().options.iter().find(|option| option.key == "instances").unwrap().value, "1");
}

#[derive(Default)]
struct Packer;

#[service(interval = 60, discover = false)]
impl Packer {
    async fn update(&mut self) {}
}

/// Depends on what its section says.
#[derive(Default)]
struct Labeller;

#[service(interval = 60, discover = false)]
impl Labeller {
    async fn update(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn dependencies_are_checked_against_the_ids_after_a_restart() {
    let bed = TestBed::new().with(|builder| builder.service_of::<Packer>("packer").service_of::<Labeller>("labeller"));
    let text =
        |instances: u32, on: &str| format!("[packer]\ninstances = {instances}\n[labeller]\ndepends_on = [\"{on}\"]");
    let file = WithFile::new(bed, &text(3, "packer_3"));
    let services = file.bed.services().await;
    for (instances, on) in [(5, "packer_5"), (5, "packer"), (3, "packer_2"), (1, "packer")] {
        file.reload(&text(instances, on)).await.unwrap();
    }
    file.reload(&text(3, "packer_3")).await.unwrap();
    // In the first case only the id that is depended on has changed.
    for (instances, on) in [(2, "packer_3"), (1, "packer_1"), (3, "packer_4")] {
        let unknown = format!("depends on `{on}`, which is not registered");
        assert_says(file.reload(&text(instances, on)).await, &["`labeller`", &unknown]);
    }
    services.register_of::<Labeller>("packer_4").await.unwrap();
    let clash = "two services would have the id `packer_4`";
    assert_says(file.reload(&text(5, "packer")).await, &[clash, "`instances`"]);
    services.unregister("packer_4").await.unwrap();
    let cycle =
        "[packer]\ninstances = 5\n[packer_5]\ndepends_on = [\"labeller\"]\n[labeller]\ndepends_on = [\"packer\"]";
    assert_says(file.reload(cycle).await, &["in a cycle: labeller -> packer -> packer_5 -> labeller"]);
    assert_eq!(services.list(), ["labeller", "packer_1", "packer_2", "packer_3"]);
    // The others of its registration stand for it.
    services.unregister("packer_1").await.unwrap();
    file.reload(&text(5, "packer")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_service_itself_has_set_stays() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new(), "[scripted]\ninterval = 50");
    let service = file.bed.start(Scripted::new(&log, &[])).await;
    service.pause().await.unwrap();
    file.reload("[scripted]\ninterval = 50\nretry_delay = 9").await.unwrap();
    file.bed.run_for(secs(100)).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::Paused, 0));
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_the_service_itself_has_set_stays_until_the_file_changes_it() {
    let log = Log::default();
    let acting = Acting::new(&log, |cx| async move { cx.set_interval(secs(20)) });
    let file = WithFile::new(TestBed::new(), "[acting]\ninterval = 50");
    let service = file.bed.start(acting).await;
    file.bed.run_for(secs(1)).await;
    file.reload("[acting]\ninterval = 50\nretry_delay = 9").await.unwrap();
    assert_eq!(service.explain().schedule, "every 20s");
    file.reload("[acting]\ninterval = 40").await.unwrap();
    assert_eq!(service.explain().schedule, "every 40s");
}

/// The file sets the values that the attribute and the defaults have.
#[tokio::test(start_paused = true)]
async fn what_the_service_itself_has_set_ends_when_another_layer_sets_the_same_values() {
    let log = Log::default();
    let acting = Acting::new(&log, |cx| async move {
        cx.set_interval(secs(20));
        cx.set_retry_delay(secs(9));
    });
    let file = WithFile::new(TestBed::new(), "");
    let service = file.bed.start(acting).await;
    let retry_delay = || service.explain().options.into_iter().find(|option| option.key == "retry_delay").unwrap();
    file.bed.run_for(secs(1)).await;
    file.reload("[acting]\nretry_delay = 5").await.unwrap();
    assert_eq!((retry_delay().value.as_str(), retry_delay().layer), ("5s", Layer::File));
    assert_eq!(service.explain().schedule, "every 20s", "of the schedule the file says nothing");
    file.reload("[acting]\nretry_delay = 5\ninterval = 60").await.unwrap();
    assert_eq!(service.explain().schedule, "every 1m");
    file.bed.run_for(secs(50)).await;
    assert_eq!(log.times("run"), [0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_file_without_a_change_does_not_move_the_next_run() {
    let log = Log::default();
    let text = "[scripted]\ninterval = 50\njitter = 30";
    let file = WithFile::new(TestBed::new(), text);
    let service = file.bed.start(Scripted::new(&log, &[])).await;
    file.bed.run_for(secs(1)).await;
    let next = service.health().next_run;
    file.reload(&format!("# the same\n{text}")).await.unwrap();
    file.bed.run_for(secs(1)).await;
    assert_eq!(service.health().next_run, next);
}

#[tokio::test(start_paused = true)]
async fn a_service_can_reload_from_within_its_run() {
    let log = Log::default();
    let acting = Acting::new(&log, |cx| async move { cx.services().reload().await });
    let file = WithFile::new(TestBed::new(), "[acting]\ninterval = 50");
    std::fs::write(&file.file, "[acting]\ninterval = 20").unwrap();
    let service = file.bed.start(acting).await;
    file.bed.run_for(secs(40)).await;
    assert_eq!((log.times("run"), service.health().error_count), (vec![0.0, 20.0, 40.0], 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_file_nothing_changes() {
    let log = Log::default();
    let bed = TestBed::new();
    let service = bed.start(Scripted::new(&log, &[])).await;
    bed.services().await.reload().await.unwrap();
    bed.run_for(secs(60)).await;
    assert_eq!((log.times("run"), service.explain().schedule), (vec![0.0, 60.0], "every 1m".into()));
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_settings_were_wrong_before_does_not_block_a_reload() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new().state(log.clone()), "[scripted]\ninterval = 50");
    let batcher = file.bed.start_of::<Batcher>().await;
    let scripted = file.bed.start(Scripted::new(&log, &[])).await;
    assert_eq!(batcher.state(), ServiceState::Failed, "`size` is missing");
    file.reload("[scripted]\ninterval = 10").await.unwrap();
    assert_eq!(scripted.explain().schedule, "every 10s");
    file.reload("[batcher]\nsize = 3").await.unwrap();
    soon(batcher.reset()).await.unwrap();
    file.bed.run_for(secs(1)).await;
    assert_eq!(log.count("run 3"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_section_of_a_type_reaches_all_of_its_services() {
    let log = Log::default();
    let state = log.clone();
    let bed = TestBed::new().with(|builder| builder.state(state).service_of::<Batcher>("batcher"));
    let file = WithFile::new(bed, "[batcher]\ninstances = 2\nsize = 1\n[batcher_2]\nsize = 5");
    let services = file.bed.services().await;
    soon(services.start()).await.unwrap();
    soon(services.register_of::<Batcher>("extra").start()).await.unwrap();
    file.bed.run_for(secs(1)).await;
    let (logged, _guard) = logged();
    file.reload("[batcher]\ninstances = 5\nsize = 2\n[batcher_2]\nsize = 5").await.unwrap();
    file.bed.run_for(secs(60)).await;
    assert_eq!((log.count("run 1"), log.count("run 2"), log.count("run 5")), (2, 2, 2));
    let parts = ["need a restart", "`instances` of `batcher` ("];
    assert!(has_line(&logged, &parts) && services.list() == ["batcher_1", "batcher_2", "extra"], "{logged:?}");
    let named: usize = logged.lock().unwrap().iter().map(|line| line.matches("`instances`").count()).sum();
    assert_eq!(named, 1, "it is one change, not one of each service");
    // `extra` is one service, whatever `instances` is.
    logged.lock().unwrap().clear();
    file.reload("[batcher]\ninstances = 2\nsize = 2\n[batcher_2]\nsize = 5\n[extra]\nenabled = false").await.unwrap();
    let line = logged.lock().unwrap().iter().find(|line| line.contains("need a restart")).unwrap().clone();
    assert!(line.contains("`enabled` of service `extra` (") && !line.contains("`instances`"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn services_that_are_registered_or_started_later_have_the_new_values() {
    let log = Log::default();
    let file = WithFile::new(TestBed::new().state(log.clone()), "");
    let services = file.bed.services().await;
    let stopped = services.register("stopped", Scripted::new(&log, &[])).await.unwrap();
    file.reload("[batcher]\nsize = 7\n[stopped]\ninterval = 5").await.unwrap();
    soon(services.register_of::<Batcher>("batcher").start()).await.unwrap();
    soon(stopped.start()).await.unwrap();
    file.bed.run_for(secs(5)).await;
    assert_eq!((log.count("run 7"), log.count("run")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_section_is_a_warning() {
    let file = WithFile::new(TestBed::new(), "");
    let (logged, _guard) = logged();
    file.reload("[nothing_like_it]\nsize = 7").await.unwrap();
    assert!(has_line(&logged, &["no service has the id `nothing_like_it`"]), "{logged:?}");
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn the_rows_of_the_tables_still_override_the_file() {
    use sea_orm::ConnectionTrait;

    let log = Log::default();
    let bed = TestBed::new().state(log.clone());
    let db = bed.sqlite().await;
    let file = WithFile::new(bed, "[batcher]\nsize = 1");
    file.bed.services().await.start().await.unwrap();
    let row = |key: &str, value: &str| {
        format!("insert into service_config (service_id, key, value) values ('batcher', '{key}', '{value}')")
    };
    db.execute_unprepared(&row("interval", "30")).await.unwrap();
    db.execute_unprepared(&row("size", "5")).await.unwrap();
    let service = file.bed.start_of::<Batcher>().await;
    file.bed.run_for(secs(10)).await;
    file.reload("[batcher]\nsize = 2\ninterval = 7\nretry_delay = 9").await.unwrap();
    file.bed.run_for(secs(50)).await;
    assert_eq!(service.explain().schedule, "every 30s");
    assert!(service.explain().options.iter().any(|option| option.key == "retry_delay" && option.value == "9s"));
    assert_eq!(log.times("run 5"), [0.0, 30.0, 60.0]);
    db.execute_unprepared("delete from service_config").await.unwrap();
    file.bed.run_for(secs(10)).await;
    assert_eq!(service.explain().schedule, "every 7s", "the row is gone, and the file as it is now applies");
    // A changed row does not apply what needs a restart.
    file.reload("[batcher]\nsize = 2\nenabled = false").await.unwrap();
    db.execute_unprepared(&row("interval", "40")).await.unwrap();
    file.bed.run_for(secs(10)).await;
    let enabled = service.explain().options.into_iter().find(|option| option.key == "enabled").unwrap();
    assert_eq!((service.explain().schedule.as_str(), enabled.value.as_str()), ("every 40s", "true"));
}

#[cfg(feature = "database")]
#[tokio::test(start_paused = true)]
async fn a_row_that_the_file_has_made_valid_applies() {
    use sea_orm::ConnectionTrait;

    let log = Log::default();
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    let file = WithFile::new(bed, "[scripted]\ninterval = 60");
    file.bed.services().await.start().await.unwrap();
    let row =
        "insert into service_config (service_id, key, value) values ('scripted', 'timezone', '\"Europe/Vienna\"')";
    db.execute_unprepared(row).await.unwrap();
    let service = file.bed.start(Scripted::new(&log, &[])).await;
    assert_eq!(service.explain().rejected.len(), 1);
    file.reload("[scripted]\ncron = \"0 3 * * *\"").await.unwrap();
    assert!(service.explain().rejected.is_empty(), "{:?}", service.explain().rejected);
    assert!(service.explain().options.iter().any(|option| option.key == "timezone" && option.value == "Europe/Vienna"));
}

/// On several threads: a manager registers services while an operator reloads once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_are_registered_during_a_reload_have_the_new_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.toml");
    let write = |seconds: u64| std::fs::write(&file, format!("[defaults]\nretry_delay = {seconds}")).unwrap();
    write(59);
    let services = ServiceRegistry::builder().without_discovered().config_file(&file).build().await.unwrap();
    for round in 1..30 {
        write(round);
        let (log, registry) = (Log::default(), services.clone());
        let registering = tokio::spawn(async move {
            for number in 0..50 {
                let id = format!("job_{round}_{number}");
                registry.register(id, Scripted::new(&log, &[])).await.unwrap();
            }
        });
        tokio::task::yield_now().await;
        services.reload().await.unwrap();
        registering.await.unwrap();
        for id in services.list() {
            let options = services.get(&id).unwrap().explain().options;
            let retry_delay = options.into_iter().find(|option| option.key == "retry_delay").unwrap();
            assert_eq!(retry_delay.value, format!("{round}s"), "{id}");
        }
    }
}

/// Takes a minute for each run.
struct Slow(Log);

#[service(interval = "1h", discover = false)]
impl Slow {
    async fn update(&mut self) {
        self.0.push("run");
        tokio::time::sleep(secs(60)).await;
    }
}

/// Every kind of schedule becomes every other one, twenty minutes after the start, before and after the first run.
#[tokio::test(start_paused = true)]
async fn a_schedule_of_another_kind_takes_effect_in_the_current_wait() {
    let hour = 3_600.0;
    // (what, whether its first run is at the start, its runs after the change if there was one before, and if there was
    // none)
    let kinds: [(_, _, &[f64], &[f64]); 4] = [
        ("interval = \"1h\"", true, &[hour], &[1_200.0, hour]),
        ("delay = \"1h\"", true, &[hour + 60.0], &[1_200.0]),
        ("cron = \"0 * * * *\"", false, &[hour], &[hour]),
        ("on_demand = true", false, &[], &[]),
    ];
    for (from, runs_at_start, ..) in kinds {
        for (to, _, after_a_run, without) in kinds.into_iter().filter(|(to, ..)| *to != from) {
            for has_run in [false, true].into_iter().filter(|has_run| *has_run || !runs_at_start) {
                let log = Log::default();
                let bed = TestBed::at(std::time::SystemTime::UNIX_EPOCH);
                let file = WithFile::new(bed, &format!("[slow]\n{from}"));
                let service = file.bed.start(Slow(log.clone())).await;
                if has_run && !runs_at_start {
                    soon(service.run_now()).await.unwrap();
                }
                let rest = secs(1_200).saturating_sub(log.elapsed());
                file.bed.run_for(rest).await;
                let first: Vec<f64> = if has_run { vec![0.0] } else { Vec::new() };
                assert_eq!(log.times("run"), first, "{from} → {to}");
                file.reload(&format!("[slow]\n{to}")).await.unwrap();
                file.bed.run_for(secs(3_599)).await;
                let expected = if has_run { after_a_run } else { without };
                let expected: Vec<f64> = first.into_iter().chain(expected.iter().copied()).collect();
                assert_eq!(log.times("run"), expected, "{from} → {to}, with a run before: {has_run}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_passed_under_another_schedule_is_not_due_when_cron_returns() {
    let log = Log::default();
    let cron = "[slow]\ncron = \"0 * * * *\"";
    let file = WithFile::new(TestBed::at(std::time::SystemTime::UNIX_EPOCH), cron);
    file.bed.start(Slow(log.clone())).await;
    file.bed.run_for(secs(1_800)).await;
    file.reload("[slow]\non_demand = true").await.unwrap();
    file.bed.run_for(secs(3_600)).await;
    file.reload(cron).await.unwrap();
    file.bed.run_for(secs(3_600)).await;
    assert_eq!(log.times("run"), [7_200.0]);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_timeout_was_removed_has_not_blocked_its_thread() {
    let (lines, _guard) = logged();
    let file = WithFile::new(TestBed::new(), "[slow]\ntimeout = \"30s\"");
    let service = file.bed.start(Slow(Log::default())).await;
    file.bed.run_for(secs(10)).await;
    file.reload("").await.unwrap();
    file.bed.run_for(secs(60)).await;
    assert_eq!((service.health().runs, service.health().error_count), (1, 0));
    assert!(!has_line(&lines, &["blocked its thread"]));
}

/// Neither reports progress nor ends before the test says so.
struct Silent {
    log: Log,
    end: std::sync::Arc<tokio::sync::Notify>,
}

#[service(retry_delay = 10, discover = false)]
impl Silent {
    async fn run(&mut self) {
        self.log.push("run");
        self.end.notified().await;
    }
}

#[tokio::test(start_paused = true)]
async fn limits_and_the_end_of_a_run_in_flight_follow_the_options() {
    let (log, end) = (Log::default(), std::sync::Arc::default());
    let file = WithFile::new(TestBed::new(), "");
    let silent = Silent { log: log.clone(), end: std::sync::Arc::clone(&end) };
    let service = file.bed.start(silent).await;
    let slow = file.bed.start(Scripted::new(&Log::default(), &[crate::support::Step::Hang])).await;
    file.bed.run_for(secs(100)).await;
    file.reload("[silent]\nidle_timeout = \"2m\"\n[scripted]\ntimeout = \"3m\"").await.unwrap();
    file.bed.run_for(secs(21)).await;
    let health = service.health();
    assert_eq!((health.error_count, log.count("run")), (1, 1));
    assert!(health.last_error.unwrap().contains("`idle_timeout` of 2m"));
    file.bed.run_for(secs(60)).await;
    assert!(slow.health().last_error.unwrap().contains("`timeout` of 3m"));
    file.reload("[silent]\non_end = \"again\"").await.unwrap();
    let runs = log.count("run");
    end.notify_one();
    file.bed.run_for(secs(11)).await;
    assert_eq!((service.state(), log.count("run")), (ServiceState::Running, runs + 1));
}
