//! A database that does not answer, at the start or later, or that hangs: services that need it wait and recover,
//! health names it, and other services are not affected.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, RuntimeErr};
use service_core::database;
use service_core::prelude::*;
use service_core::{HealthStatus, ServiceHealth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::log::Log;
use crate::postgres::Postgres;
use crate::tables::{job, jobs};

/// Needs the database in every run.
#[derive(Default)]
struct Counter;

#[service(interval = "100ms", retry_delay = "100ms", discover = false)]
impl Counter {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let count: u64 = cx.store().get("count").await?.unwrap_or_default();
        cx.store().set("count", &(count + 1)).await?;
        Ok(Outcome::processed(1))
    }
}

/// Needs the database in `configure`.
struct Reader;

#[service(interval = "100ms", retry_delay = "100ms", discover = false)]
impl Reader {
    async fn configure(cx: &Context) -> Result<Self> {
        cx.db()?.query_one_raw(sea_orm::Statement::from_string(cx.db()?.get_database_backend(), "SELECT 1")).await?;
        Ok(Self)
    }

    async fn update(&mut self) {}
}

/// Does not need the database.
#[derive(Default)]
struct Ticker;

#[service(interval = "100ms", discover = false)]
impl Ticker {
    async fn update(&mut self) {}
}

pub(crate) fn builder() -> service_core::RegistryBuilder {
    ServiceRegistry::builder()
        .without_discovered()
        .shutdown_timeout(Duration::from_secs(2))
        .service_of::<Counter>("counter")
        .service_of::<Reader>("reader")
        .service_of::<Ticker>("ticker")
}

pub(crate) fn health(services: &ServiceRegistry, id: &str) -> ServiceHealth {
    services.get(id).unwrap().health()
}

/// Waits in real time, because a database uses real time.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks that services which need the database back off and name it, beyond `max_failures`, and that the others are
/// well.
async fn wait_for(services: &ServiceRegistry, name: &str, ids: &[&str]) {
    for id in ids {
        let before = health(services, id).error_count;
        until("failures beyond the limit", || health(services, id).error_count > before + 5).await;
        until("it backs off", || health(services, id).state == ServiceState::BackingOff).await;
        let found = health(services, id);
        assert_eq!(found.status, HealthStatus::Degraded);
        assert_eq!((found.failures, found.max_failures), (3, Some(3)), "{found:?}");
        let reason = found.reason.unwrap();
        assert!(reason.contains("backing off") && reason.contains(name) && reason.contains("down for"), "{reason}");
        let explained = services.get(id).unwrap().explain();
        assert!(explained.reason.as_ref().unwrap().contains(name), "{explained}");
        assert!(explained.to_string().contains(name), "{explained}");
    }
    ticker_is_well(services).await;
}

pub(crate) async fn ticker_is_well(services: &ServiceRegistry) {
    let runs = health(services, "ticker").runs;
    until("the ticker runs on", || health(services, "ticker").runs > runs + 1).await;
    let found = health(services, "ticker");
    assert_eq!((found.status, found.reason), (HealthStatus::Healthy, None));
}

async fn all_recover(services: &ServiceRegistry) {
    for id in ["counter", "reader", "ticker"] {
        let runs = health(services, id).runs;
        until("it runs and is well", || {
            let found = health(services, id);
            found.runs > runs + 1 && found.status == HealthStatus::Healthy && found.failures == 0
        })
        .await;
    }
}

/// Writes rows of the configuration tables before the service's program can read them.
async fn prepare(db: &DatabaseConnection) {
    database::migrate(db).await.unwrap();
    db.execute_unprepared("INSERT INTO service_config VALUES ('ticker', 'interval', '\"70ms\"')").await.unwrap();
}

fn interval_is_from_the_table(services: &ServiceRegistry) -> bool {
    let options = services.get("ticker").unwrap().explain().options;
    options
        .iter()
        .any(|option| option.key == "interval" && option.value == "70ms" && option.place.contains("service_config"))
}

async fn services_wait_for_a_directory_that_does_not_exist_yet() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = dir.path().join("prepared");
    std::fs::create_dir(&prepared).unwrap();
    let db = database::connect(&format!("sqlite:{}", prepared.join("app.db").display())).await.unwrap();
    prepare(&db).await;
    db.close().await.unwrap();
    let url = format!("sqlite:{}", dir.path().join("mounted/app.db").display());
    let patient = builder().service_of::<Counter>("patient").set("patient.retry_delay", "1h");
    let services = patient.database_url(&url).start_all().await.unwrap();
    wait_for(&services, &url, &["counter", "reader"]).await;
    assert_eq!(health(&services, "patient").state, ServiceState::BackingOff);
    assert!(!interval_is_from_the_table(&services));
    std::fs::rename(&prepared, dir.path().join("mounted")).unwrap();
    all_recover(&services).await;
    until("the table layers are read", || interval_is_from_the_table(&services)).await;
    until("it does not wait for its hour", || health(&services, "patient").status == HealthStatus::Healthy).await;
    services.shutdown().await.unwrap();
}

/// Cannot reach the database. Its last attempt before the limit takes long.
struct Straggler {
    /// Whether the database answers again.
    there: watch::Receiver<bool>,
}

#[service(interval = "100ms", retry_delay = "50ms", discover = false)]
impl Straggler {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let began_without = !*self.there.borrow();
        if cx.run_number() == 4 {
            cx.metrics().set("last", 1);
            self.there.wait_for(|there| *there).await?;
        }
        if began_without { Err(Error::new(out_of_reach())) } else { Ok(()) }
    }
}

/// Cannot reach the database, and sets the wait before the retry itself.
struct Deliberate;

#[service(interval = "100ms", discover = false)]
impl Deliberate {
    async fn update(&mut self) -> Result<()> {
        Err(Error::retry_after(Duration::from_secs(3600), out_of_reach()))
    }
}

/// Is refused once more when the database answers again, because all services connect at once.
#[derive(Default)]
struct Unlucky {
    refused: bool,
}

#[service(interval = "100ms", retry_delay = "100ms", discover = false)]
impl Unlucky {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.store().get::<u64>("count").await?;
        if !std::mem::replace(&mut self.refused, true) { Err(Error::new(out_of_reach())) } else { Ok(()) }
    }
}

fn out_of_reach() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal("no route to host".into()))
}

async fn a_failure_that_began_in_an_outage_does_not_exhaust_max_failures_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("mounted/app.db").display());
    let (back, there) = watch::channel(false);
    let services = builder()
        .service_fn("straggler", move || Straggler { there: there.clone() })
        .service("deliberate", Deliberate)
        .service("unlucky", Unlucky::default())
        .database_url(&url)
        .start_all()
        .await
        .unwrap();
    until("its last attempt is in progress", || health(&services, "straggler").metrics.contains_key("last")).await;
    until("it has set its wait", || health(&services, "deliberate").failures == 1).await;
    wait_for(&services, &url, &["counter", "unlucky"]).await;
    std::fs::create_dir(dir.path().join("mounted")).unwrap();
    all_recover(&services).await;
    until("it is refused once more, and continues", || health(&services, "unlucky").status == HealthStatus::Healthy)
        .await;
    back.send(true).unwrap();
    until("its failure is handled", || health(&services, "straggler").error_count > 3).await;
    until("it is well", || health(&services, "straggler").status == HealthStatus::Healthy).await;
    assert_eq!(health(&services, "deliberate").runs, 1, "it waits as long as it has set");
    services.shutdown().await.unwrap();
}

async fn an_outage_is_detected_when_services_are_started_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("mounted/app.db").display());
    let services = builder().database_url(&url).build().await.unwrap();
    for id in ["counter", "reader", "ticker"] {
        services.get(id).unwrap().start().await.unwrap();
    }
    until("it is known to be down", || health(&services, "counter").reason.is_some_and(|why| why.contains("down for")))
        .await;
    std::fs::create_dir(dir.path().join("mounted")).unwrap();
    all_recover(&services).await;
    services.shutdown().await.unwrap();
}

fn an_outage_is_detected_after_one_of_two_runtimes_has_shut_down() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("mounted/app.db").display());
    let first = runtime();
    let services = first.block_on(builder().database_url(&url).start_all()).unwrap();
    drop(first);
    runtime().block_on(async {
        for id in ["counter", "reader", "ticker"] {
            services.get(id).unwrap().reset().await.unwrap();
        }
        wait_for(&services, &url, &["counter", "reader"]).await;
        std::fs::create_dir(dir.path().join("mounted")).unwrap();
        all_recover(&services).await;
        services.shutdown().await.unwrap();
    });
}

async fn a_file_that_is_not_a_database_is_reported_and_a_good_one_in_its_place_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.db");
    std::fs::write(&file, "this is a letter, and no database, however long one makes it".repeat(100)).unwrap();
    let url = format!("sqlite:{}", file.display());
    let services = builder().database_url(&url).start_all().await.unwrap();
    wait_for(&services, "not a database", &["counter", "reader"]).await;
    std::fs::remove_file(&file).unwrap();
    all_recover(&services).await;
    services.shutdown().await.unwrap();
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn services_wait_for_a_server_that_is_down_at_the_start_and_later() {
    let Some(server) = on_thread(Postgres::start).await else { return };
    let server = Arc::new(server);
    // The driver retries a socket that refuses for ten seconds. For a missing socket it fails at once.
    let down = async || {
        let server = server.clone();
        on_thread(move || {
            server.down();
            let _ = std::fs::remove_file(server.socket());
        })
        .await;
    };
    let up = async || {
        let server = server.clone();
        on_thread(move || server.up()).await;
    };
    let url = on_thread({
        let server = server.clone();
        move || server.database()
    })
    .await;
    down().await;
    let (log, _listening) = Log::listen();
    let services = builder().shutdown_timeout(Duration::from_secs(25)).database_url(&url).start_all().await.unwrap();
    assert_eq!(health(&services, "ticker").state, ServiceState::Running, "it does not wait for what it does not need");
    wait_for(&services, &url, &["counter", "reader"]).await;
    up().await;
    all_recover(&services).await;
    let db = database::connect(&url).await.unwrap();
    database::check_schema(&db).await.unwrap();
    prepare(&db).await;
    until("the table layers are read", || interval_is_from_the_table(&services)).await;
    down().await;
    // The reader only needed the database in `configure`.
    wait_for(&services, &url, &["counter"]).await;
    assert!(interval_is_from_the_table(&services), "the values that were read stay");
    assert!(health(&services, "reader").reason.is_some_and(|why| why.contains(&url)), "it may need it again");
    up().await;
    all_recover(&services).await;
    services.shutdown().await.unwrap();
    let count = |text: &str| log.lines().iter().filter(|line| line.contains(text)).count();
    let away = count("does not answer, services that need it wait");
    assert!(away >= 2, "{:?}", log.warnings());
    // On a busy machine, the server may seem to be down once more.
    assert_eq!(away, count("answers again"), "one warning for each outage: {:?}", log.lines());
}

/// Has a row in flight whenever the database answers.
#[derive(Default)]
struct Holder;

#[service(interval = "100ms", retry_delay = "100ms", discover = false)]
impl Holder {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let mut batch = cx.claim_each::<job::Entity>(1).await?;
        let item = batch.next().await?;
        while item.is_some() && !cx.is_stopping() {
            cx.sleep(Duration::from_millis(20)).await;
            cx.store().get::<u64>("count").await?;
        }
        Ok(())
    }
}

/// The row in flight is settled after the outage, however many runs try it meanwhile.
async fn a_run_that_cannot_be_settled_in_an_outage_is_no_warning_for_each_retry() {
    let Some(server) = on_thread(Postgres::start).await else { return };
    let server = Arc::new(server);
    let url = on_thread({
        let server = server.clone();
        move || server.database()
    })
    .await;
    let db = database::connect(&url).await.unwrap();
    jobs(&db, 1).await;
    db.close().await.unwrap();
    let (log, _listening) = Log::listen();
    let services = builder().service_of::<Holder>("holder").database_url(&url).start_all().await.unwrap();
    until("it works on its row", || health(&services, "holder").runs == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    on_thread({
        let server = server.clone();
        move || {
            server.down();
            let _ = std::fs::remove_file(server.socket());
        }
    })
    .await;
    until("the outage is known", || health(&services, "holder").reason.is_some_and(|why| why.contains("down for")))
        .await;
    let count = |level: &str| {
        let is_it = |line: &&String| line.starts_with(level) && line.contains("cannot settle the rows of the run");
        log.lines().iter().filter(is_it).count()
    };
    let (warnings, errors) = (count("WARN"), health(&services, "holder").error_count);
    until("further runs fail", || health(&services, "holder").error_count > errors + 5).await;
    assert!(count("DEBUG") > 0, "{:?}", log.lines());
    assert_eq!(count("WARN"), warnings, "{:?}", log.warnings());
    on_thread({
        let server = server.clone();
        move || server.up()
    })
    .await;
    // Its run does not end, so it does not succeed.
    until("it works on its row again", || {
        let found = health(&services, "holder");
        found.state == ServiceState::Running && !found.reason.is_some_and(|why| why.contains("down for"))
    })
    .await;
    services.shutdown().await.unwrap();
}

/// A proxy between the program and the server, which can stop to forward.
fn proxy(target: std::path::PathBuf, address: &Path) -> watch::Sender<bool> {
    let (stall, stalled) = watch::channel(false);
    let listener = UnixListener::bind(address).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, stalled) = (target.clone(), stalled.clone());
            tokio::spawn(async move {
                let mut there = stalled.clone();
                let _ = there.wait_for(|stalled| !stalled).await;
                let Ok(server) = UnixStream::connect(&target).await else { return };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::join!(pass(from_client, to_server, stalled.clone()), pass(from_server, to_client, stalled));
            });
        }
    });
    stall
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = [0; 16384];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Checks that a shutdown ends in time, with a tolerance for a busy machine.
pub(crate) async fn shuts_down_in_time(services: &ServiceRegistry) {
    let mut running = services.list();
    running.retain(|id| health(services, id).running);
    let begun = Instant::now();
    let _ = services.shutdown().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2 + 6), "{took:?}");
    for id in &running {
        assert_eq!(health(services, id).state, ServiceState::Stopped, "{:?}", health(services, id));
    }
}

async fn a_server_that_never_answers_does_not_block_start_or_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let _stall = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
    let url = format!("postgres://tester@localhost/app?host={}", dir.path().display());
    let begun = Instant::now();
    let services = builder().database_url(&url).start_all().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    ticker_is_well(&services).await;
    for id in ["counter", "reader"] {
        until("it names what it waits for", || health(&services, id).reason.is_some_and(|why| why.contains(&url)))
            .await;
    }
    shuts_down_in_time(&services).await;
}

async fn a_server_that_hangs_later_is_detected_and_does_not_block_the_shutdown() {
    let Some(server) = on_thread(Postgres::shared).await else { return };
    let (url, dir) = (on_thread(|| server.database()).await, tempfile::tempdir().unwrap());
    let stall = proxy(server.socket(), &dir.path().join(".s.PGSQL.5432"));
    let (path, _) = url.split_once("?host=").unwrap();
    let url = format!("{path}?host={}", dir.path().display());
    let impatient = builder().service_of::<Counter>("impatient").set("impatient.timeout", "1s");
    let services = impatient.set("counter.timeout", "2s").database_url(&url).start_all().await.unwrap();
    all_recover(&services).await;
    until("it has used the database", || health(&services, "impatient").total_processed > 0).await;
    stall.send(true).unwrap();
    let waits =
        |id: &str| health(&services, id).reason.is_some_and(|why| why.contains(&url) && why.contains("down for"));
    until("the outage is reported", || waits("counter") && waits("reader")).await;
    let judged = health(&services, "impatient").error_count;
    until("timeouts beyond the limit", || health(&services, "impatient").error_count > judged.max(4)).await;
    assert_eq!(health(&services, "impatient").failures, 3, "it is not failed before the outage is noticed");
    ticker_is_well(&services).await;
    stall.send(false).unwrap();
    all_recover(&services).await;
    stall.send(true).unwrap();
    until("a run hangs", || health(&services, "counter").error_count > 0 && waits("counter")).await;
    shuts_down_in_time(&services).await;
}

mod on_sqlite_alone {
    #[tokio::test]
    async fn services_wait_for_a_directory_that_does_not_exist_yet() {
        super::services_wait_for_a_directory_that_does_not_exist_yet().await;
    }

    #[tokio::test]
    async fn a_failure_that_began_in_an_outage_does_not_exhaust_max_failures_after_it() {
        super::a_failure_that_began_in_an_outage_does_not_exhaust_max_failures_after_it().await;
    }

    #[tokio::test]
    async fn an_outage_is_detected_when_services_are_started_one_by_one() {
        super::an_outage_is_detected_when_services_are_started_one_by_one().await;
    }

    #[test]
    fn an_outage_is_detected_after_one_of_two_runtimes_has_shut_down() {
        super::an_outage_is_detected_after_one_of_two_runtimes_has_shut_down();
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_database_is_reported_and_a_good_one_in_its_place_is_used() {
        super::a_file_that_is_not_a_database_is_reported_and_a_good_one_in_its_place_is_used().await;
    }
}

mod on_postgres_alone {
    #[tokio::test]
    async fn services_wait_for_a_server_that_is_down_at_the_start_and_later() {
        super::services_wait_for_a_server_that_is_down_at_the_start_and_later().await;
    }

    #[tokio::test]
    async fn a_run_that_cannot_be_settled_in_an_outage_is_no_warning_for_each_retry() {
        super::a_run_that_cannot_be_settled_in_an_outage_is_no_warning_for_each_retry().await;
    }

    #[tokio::test]
    async fn a_server_that_never_answers_does_not_block_start_or_shutdown() {
        super::a_server_that_never_answers_does_not_block_start_or_shutdown().await;
    }

    #[tokio::test]
    async fn a_server_that_hangs_later_is_detected_and_does_not_block_the_shutdown() {
        super::a_server_that_hangs_later_is_detected_and_does_not_block_the_shutdown().await;
    }
}
