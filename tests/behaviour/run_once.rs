//! `run_once`: builds an instance, runs it once and cleans it up, without a loop.

use service_core::prelude::*;
use service_core::{HealthStatus, RegistryBuilder};
use tokio::time::Instant;

use crate::acting::{Acting, Configured, Plan, assert_says, has_line, logged, soon};
use crate::support::{Log, Scripted, Step, act, built, secs};

fn bed(change: impl FnOnce(RegistryBuilder) -> RegistryBuilder) -> TestBed {
    TestBed::new().with(change)
}

/// Each of its instances follows the script.
fn scripted(log: &Log, script: &[Step]) -> TestBed {
    let (log, script) = (log.clone(), script.to_vec());
    bed(|builder| builder.service_fn("job", built(&log, move |log, _| Scripted::new(log, &script))))
}

#[tokio::test(start_paused = true)]
async fn it_builds_runs_and_cleans_up_once() {
    let log = Log::default();
    let bed = scripted(&log, &[Step::Again]).set("initial_delay", 100);
    let services = bed.services().await;
    for run in 1..=2 {
        let report = soon(services.run_once("job")).await.unwrap();
        assert_eq!((report.processed(), report.again(), report.error().is_none()), (1, true, true));
        let job = services.get("job").unwrap();
        assert_eq!((job.state(), job.health().runs), (ServiceState::Stopped, run));
        assert_eq!(
            (job.health().status, job.health().reason.as_deref()),
            (HealthStatus::Healthy, Some("stopped itself"))
        );
        bed.run_for(secs(1000)).await;
    }
    let lines: Vec<String> = log.lines().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["built", "run", "cleanup", "built", "run", "cleanup"]);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_run_is_in_the_report_and_no_retry_follows() {
    for (step, text) in
        [(Step::Fail, "it failed"), (Step::Panic, "panicked: it panicked"), (Step::Fatal, "it is hopeless")]
    {
        let log = Log::default();
        let bed = scripted(&log, &[step]);
        let services = bed.services().await;
        let (lines, guard) = logged();
        let report = soon(services.run_once("job")).await.unwrap();
        drop(guard);
        let error = report.error().map(ToString::to_string).unwrap_or_default();
        assert!(error.contains(text), "{error}");
        assert!(has_line(&lines, &["[job]", "run failed, the service stops", text]), "{lines:?}");
        bed.run_for(secs(1000)).await;
        assert_eq!((log.count("run"), log.count("cleanup")), (1, 1), "{step:?}");
        let health = services.get("job").unwrap().health();
        assert_eq!(
            (health.state, health.status, health.error_count),
            (ServiceState::Stopped, HealthStatus::Unhealthy, 1)
        );
        assert!(health.reason.is_some_and(|reason| reason.contains(text)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_configure_is_in_the_report_and_no_retry_follows() {
    let log = Log::default();
    let plan = Plan::new(&log, &[Step::Fail, Step::Panic]);
    let bed = bed(|builder| builder.state(plan).service_of::<Configured>("job"));
    let services = bed.services().await;
    for text in ["it failed", "it panicked"] {
        let report = soon(services.run_once("job")).await.unwrap();
        assert!(report.error().is_some_and(|error| error.to_string().contains(text)), "{:?}", report.error());
    }
    bed.run_for(secs(1000)).await;
    assert_eq!((log.count("configure"), log.count("run")), (2, 0));
    let report = soon(services.run_once("job")).await.unwrap();
    assert!(report.error().is_none());
    assert_eq!((log.count("run"), log.count("cleanup")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_run_applies() {
    let log = Log::default();
    let services = scripted(&log, &[Step::Hang]).set("timeout", 7).services().await;
    let start = Instant::now();
    let report = soon(services.run_once("job")).await.unwrap();
    assert!(report.error().is_some_and(|error| error.to_string().contains("`timeout` of 7s")), "{:?}", report.error());
    assert_eq!((start.elapsed(), report.duration(), log.count("cleanup")), (secs(7), secs(7), 1));
}

#[tokio::test(start_paused = true)]
async fn neither_dependencies_nor_enabled_nor_the_schedule_delay_it() {
    let log = Log::default();
    let bed = bed(|builder| {
        let job = Scripted::new(&log, &[]);
        builder.service("job", job).service("other", Scripted::new(&log, &[])).set("job.depends_on", vec!["other"])
    });
    let services = bed.set("job.enabled", false).set("job.initial_delay", 5).services().await;
    let start = Instant::now();
    soon(services.run_once("job")).await.unwrap();
    assert_eq!((start.elapsed(), log.count("run")), (secs(0), 1));
    assert_eq!(services.get("other").unwrap().state(), ServiceState::Created);
}

#[tokio::test(start_paused = true)]
async fn a_cron_service_runs_at_once() {
    let log = Log::default();
    let bed = scripted(&log, &[]).set("cron", "0 3 * * *");
    let services = bed.services().await;
    soon(services.run_once("job")).await.unwrap();
    assert_eq!(log.times("run"), [0.0]);
}

#[tokio::test(start_paused = true)]
async fn it_is_refused_while_the_service_runs_with_the_reason() {
    let log = Log::default();
    let bed = scripted(&log, &[Step::Take(10.0)]);
    let services = bed.services().await;
    let job = services.get("job").unwrap();
    soon(job.start()).await.unwrap();
    assert_says(
        soon(services.run_once("job")).await,
        &["cannot run service `job`", "it is running already", "`run_now`"],
    );
    let stopping = tokio::spawn(async move { job.stop().await });
    bed.run_for(secs(1)).await;
    assert_says(soon(services.run_once("job")).await, &["`job`", "it is still stopping"]);
    stopping.await.unwrap().unwrap();
    soon(services.run_once("job")).await.unwrap();
    assert_says(services.run_once("jop").await, &["there is no service `jop`", "did you mean `job`?"]);
}

#[tokio::test(start_paused = true)]
async fn while_it_runs_another_start_is_refused() {
    let log = Log::default();
    let services = scripted(&log, &[Step::Take(10.0)]).services().await;
    let once = tokio::spawn({
        let services = services.clone();
        async move { services.run_once("job").await }
    });
    tokio::time::sleep(secs(5)).await;
    let job = services.get("job").unwrap();
    assert_eq!(job.state(), ServiceState::Running);
    assert_says(job.start().await, &["it is running already"]);
    assert_says(services.run_once("job").await, &["it is running already"]);
    assert!(soon(once).await.unwrap().unwrap().error().is_none());
    assert_eq!(log.count("run"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_service_needs_a_reset() {
    let log = Log::default();
    let bed = scripted(&log, &[Step::Fatal]);
    let services = bed.services().await;
    soon(services.get("job").unwrap().start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_says(soon(services.run_once("job")).await, &["`job`", "`reset`"]);
}

#[tokio::test(start_paused = true)]
async fn a_ready_made_instance_runs_once_and_no_more() {
    let log = Log::default();
    let services = bed(|builder| builder.service("job", Scripted::new(&log, &[]))).services().await;
    soon(services.run_once("job")).await.unwrap();
    assert_says(soon(services.run_once("job")).await, &["`job`", "ready-made", "`service_fn`"]);
}

/// Continues until a stop is requested.
struct Endless;

#[service(discover = false)]
impl Endless {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_with_run_cannot_run_once() {
    let services = bed(|builder| builder.service("endless", Endless)).services().await;
    assert_says(services.run_once("endless").await, &["`endless`", "its `run` continues until a stop is requested"]);
    assert_eq!(services.get("endless").unwrap().state(), ServiceState::Created);
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_the_run_and_an_earlier_one_is_an_error() {
    let log = Log::default();
    let services = scripted(&log, &[Step::Take(10.0)]).services().await;
    let once = {
        let services = services.clone();
        tokio::spawn(async move { services.run_once("job").await })
    };
    tokio::time::sleep(secs(2)).await;
    soon(services.shutdown()).await.unwrap();
    assert!(once.await.unwrap().unwrap().error().is_none(), "the run in flight continues to its end");
    assert_eq!((log.times("run"), log.times("cleanup")), (vec![0.0], vec![10.0]));

    let slow = Log::default();
    let plan = Plan::new(&slow, &[Step::Take(10.0)]);
    let services = bed(|builder| builder.state(plan).service_of::<Configured>("slow")).services().await;
    let once = {
        let services = services.clone();
        tokio::spawn(async move { services.run_once("slow").await })
    };
    tokio::time::sleep(secs(2)).await;
    soon(services.get("slow").unwrap().stop()).await.unwrap();
    assert_says(once.await.unwrap(), &["`slow`", "ended before the requested run"]);
    assert_eq!((slow.count("run"), slow.count("cleanup")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_does_not_cancel_the_run() {
    let log = Log::default();
    let services = scripted(&log, &[Step::Take(10.0)]).services().await;
    let waited = tokio::time::timeout(secs(1), services.run_once("job")).await;
    assert!(waited.is_err());
    tokio::time::sleep(secs(20)).await;
    assert_eq!(log.times("cleanup"), [10.0]);
}

#[tokio::test(start_paused = true)]
async fn a_service_can_run_another_one_once() {
    let (log, inner) = (Log::default(), Log::default());
    let caller = Acting::new(&log, |cx| async move {
        let report = cx.services().run_once("job").await?;
        let itself = cx.services().run_once("caller").await;
        assert_says(itself, &["`caller`", "it is running already"]);
        Ok::<_, Error>(Outcome::processed(report.processed()))
    });
    let job = Scripted::new(&inner, &[]);
    let bed = bed(|builder| builder.service("caller", caller).service("job", job).set("job.enabled", false));
    let services = bed.services().await;
    soon(services.start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(services.get("caller").unwrap().health().total_processed, 1);
    assert_eq!(inner.count("run"), 1);
}

/// Decides what follows a failure, which is nothing here.
struct Deciding(Log);

#[service(discover = false)]
impl Deciding {
    async fn update(&mut self) -> Result<Outcome> {
        self.0.push("run");
        act(Step::Fail).await
    }

    fn on_failure(&mut self, _failure: &Failure) -> Recovery {
        self.0.push("on_failure");
        Recovery::RetryAfter(secs(1))
    }
}

#[tokio::test(start_paused = true)]
async fn on_failure_is_called_and_cannot_ask_for_another_run() {
    let log = Log::default();
    let bed = bed(|builder| builder.service("job", Deciding(log.clone())));
    let report = soon(bed.services().await.run_once("job")).await.unwrap();
    assert!(report.error().is_some());
    bed.run_for(secs(100)).await;
    assert_eq!((log.count("run"), log.count("on_failure")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn critical_and_restart_have_no_effect() {
    let (log, other) = (Log::default(), Scripted::new(&Log::default(), &[]));
    let bed = scripted(&log, &[Step::Fatal]).set("job.critical", true).set("job.restart", "on_failure");
    let bed = bed.with(|builder| builder.service("other", other));
    let services = bed.services().await;
    soon(services.get("other").unwrap().start()).await.unwrap();
    let report = soon(services.run_once("job")).await.unwrap();
    assert!(report.error().is_some());
    bed.run_for(secs(1000)).await;
    assert_eq!(services.get("other").unwrap().state(), ServiceState::Running, "the registry has not shut down");
    assert_eq!(log.count("run"), 1);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_its_turn() {
    let log = Log::default();
    let busy = Scripted::new(&Log::default(), &[Step::Take(10.0)]);
    let bed = scripted(&log, &[]).with(|builder| builder.service("busy", busy).max_concurrent_runs(1));
    let services = bed.services().await;
    soon(services.get("busy").unwrap().start()).await.unwrap();
    bed.run_for(secs(1)).await;
    assert!(soon(services.run_once("job")).await.unwrap().error().is_none());
    assert_eq!(log.times("run"), [10.0]);
}

#[cfg(feature = "database")]
mod with_a_database {
    use std::time::{Duration, Instant};

    use sea_orm::ConnectionTrait;
    use service_core::database::migrate;

    use super::*;

    /// Writes to the database, and reports its setting.
    struct Writer {
        size: u64,
    }

    #[derive(serde::Deserialize)]
    struct Settings {
        size: u64,
    }

    #[service(discover = false)]
    impl Writer {
        fn configure(_cx: &Context, settings: Settings) -> Self {
            Self { size: settings.size }
        }

        async fn update(&mut self, cx: &Context) -> Result<Outcome> {
            cx.store().set("size", &self.size).await?;
            Ok(Outcome::processed(self.size))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rows_of_the_tables_apply() {
        let bed = TestBed::new().set("writer.interval", 5).with(|builder| builder.service_of::<Writer>("writer"));
        let db = bed.sqlite().await;
        migrate(&db).await.unwrap();
        let row = "insert into service_config (service_id, key, value) values ('writer', 'size', '7')";
        db.execute_unprepared(row).await.unwrap();
        let report = bed.services().await.run_once("writer").await.unwrap();
        assert_eq!((report.processed(), report.error().map(ToString::to_string)), (7, None));
    }

    fn builder(folder: &std::path::Path) -> RegistryBuilder {
        let builder = ServiceRegistry::builder().without_discovered().service_of::<Writer>("writer");
        builder.set("writer.size", 1).database_url(format!("sqlite:{}", folder.join("app.db").display()))
    }

    #[tokio::test]
    async fn a_database_that_is_down_delays_the_run_as_it_delays_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let services = builder(&folder.path().join("missing")).build().await.unwrap();
        let began = Instant::now();
        let report = services.run_once("writer").await.unwrap();
        assert!(report.error().is_some());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        std::fs::create_dir(folder.path().join("missing")).unwrap();
        let report = services.run_once("writer").await.unwrap();
        assert!(report.error().is_none(), "{report:?}");
    }

    /// A server that accepts connections and never answers.
    #[tokio::test]
    async fn a_shutdown_during_the_wait_for_the_database_refuses_what_waits() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://ann@{}/app", silent.local_addr().unwrap());
        let builder = ServiceRegistry::builder().without_discovered().database_url(url);
        let builder = builder.service_of::<Writer>("writer").service_of::<Writer>("other");
        let services = builder.set("writer.size", 1).set("other.size", 1).build().await.unwrap();
        let other = services.get("other").unwrap();
        let (mut run, mut start) = (Box::pin(services.run_once("writer")), Box::pin(other.start()));
        std::future::poll_fn(|task| {
            assert!(run.as_mut().poll(task).is_pending() && start.as_mut().poll(task).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        services.shutdown().await.unwrap();
        let (ran, started) = tokio::join!(run, start);
        assert_says(ran, &["`writer`", "a shutdown is in progress"]);
        assert_says(started, &["`other`", "a shutdown is in progress"]);
        assert_eq!(other.state(), ServiceState::Created);
    }

    #[tokio::test]
    async fn missing_tables_that_must_not_be_created_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let services = builder(folder.path()).migrate(false).build().await.unwrap();
        assert_says(services.run_once("writer").await, &["service_config"]);
        assert_eq!(services.get("writer").unwrap().state(), ServiceState::Created);
    }
}

/// A service that depends on it does not start because of a single run, which ends it again.
#[tokio::test(start_paused = true)]
async fn a_single_run_makes_no_dependency_ready() {
    #[derive(Default)]
    struct App;

    #[service(depends_on = ["job"], discover = false)]
    impl App {
        async fn update(&mut self) {}
    }

    let log = Log::default();
    let bed = scripted(&log, &[Step::Take(5.0)]).set("job.enabled", false).set("timeout", "1h");
    let bed = bed.with(|builder| builder.service_of::<App>("app"));
    let services = bed.services().await;
    services.start().await.unwrap();
    assert_eq!(services.get("app").unwrap().state(), ServiceState::Starting);
    services.run_once("job").await.unwrap();
    bed.run_for(secs(10)).await;
    assert_eq!((log.count("run"), services.get("app").unwrap().state()), (1, ServiceState::Starting));
}
