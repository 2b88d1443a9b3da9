//! Cron fires that were missed while the process was down, on both engines: none is lost, whatever happens to the
//! process, and the fire of a killed run is repeated.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, Statement};
use service_core::__private::database as internal;
use service_core::__private::database::LastRun;
use service_core::prelude::*;
use service_core::{CatchUp, ServiceOptions};

use crate::Bench;
use crate::fires::{FIRES, Fires};
use crate::killed::Worker;
use crate::postgres::Postgres;

const CREATE: &str = "CREATE TABLE fired (process BIGINT NOT NULL)";

/// Records that the service last ran this long ago.
async fn down_for(bench: &Bench, seconds: i64) -> DateTime<Utc> {
    bench.db.execute_unprepared(CREATE).await.unwrap();
    let last = DateTime::from_timestamp(Utc::now().timestamp() - seconds, 0).unwrap();
    let mut served = LastRun::default();
    served.fire = Some(last);
    internal::set_last_run(&bench.db, FIRES, &served).await.unwrap();
    last
}

async fn last_fire(bench: &Bench) -> DateTime<Utc> {
    internal::last_run(&bench.db, FIRES).await.unwrap().fire.unwrap()
}

/// The number of successful runs.
async fn runs(bench: &Bench) -> i64 {
    let count = Statement::from_string(bench.db.get_database_backend(), "SELECT count(*) AS n FROM fired");
    bench.db.query_one_raw(count).await.unwrap().unwrap().try_get("", "n").unwrap()
}

async fn until_served(bench: &Bench, at_least: DateTime<Utc>) {
    let begun = Instant::now();
    let served = async || internal::last_run(&bench.db, FIRES).await.ok().and_then(|last| last.fire);
    while served().await.is_none_or(|fire| fire < at_least) {
        assert!(begun.elapsed() < Duration::from_secs(120), "not served within two minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills the process at random moments, in a run or between two, until the fires of a quarter of an hour, and those
/// since, are served.
pub(crate) async fn no_fire_is_lost_when_the_process_is_killed(bench: Bench) {
    let first = down_for(&bench, 900).await;
    let begun = Utc::now();
    let mut kills = 0;
    while last_fire(&bench).await < begun {
        let worker = Worker::start(&bench.url, "all");
        let before = last_fire(&bench).await;
        // Not before it has done something, or the test would never end.
        while last_fire(&bench).await == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..100))).await;
        assert_eq!(worker.kill(), "");
        kills += 1;
    }
    let worker = Worker::start(&bench.url, "all");
    until_served(&bench, Utc::now()).await;
    worker.kill();
    // One fire a second. At most the last run of a killed process is repeated.
    let (fires, runs) = ((last_fire(&bench).await - first).num_seconds(), runs(&bench).await);
    assert!(kills >= 5, "only {kills} kills");
    assert!((fires..=fires + kills + 1).contains(&runs), "{runs} runs for {fires} fires and {kills} kills");
}

pub(crate) async fn with_latest_one_fire_is_made_up_after_each_kill(bench: Bench) {
    let first = down_for(&bench, 300).await;
    let mut kills = 0;
    for _ in 0..3 {
        let started = Utc::now();
        let worker = Worker::start(&bench.url, "latest");
        until_served(&bench, started - Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        assert_eq!(worker.kill(), "");
        kills += 1;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
    let (fires, runs) = ((last_fire(&bench).await - first).num_seconds(), runs(&bench).await);
    // At least two fires were missed each time it was down, and one of them was made up.
    assert!(fires >= 303, "{fires} fires");
    assert!(
        (kills..=fires - 299 - (kills - 1) + kills).contains(&runs),
        "{runs} runs for {fires} fires, {kills} kills"
    );
}

async fn start(bench: &Bench, catch_up: CatchUp) -> ServiceRegistry {
    ServiceRegistry::builder()
        .without_discovered()
        .service(FIRES, Fires)
        .options_of(FIRES, ServiceOptions::new().catch_up(catch_up))
        .database_url(&bench.url)
        .start_all()
        .await
        .unwrap()
}

pub(crate) async fn a_thousand_missed_fires_are_made_up_and_no_more(bench: Bench) {
    down_for(&bench, 3_000).await;
    let begun = Utc::now();
    let services = start(&bench, CatchUp::All).await;
    until_served(&bench, begun).await;
    services.shutdown().await.unwrap();
    let since = (last_fire(&bench).await - begun).num_seconds() + 1;
    let runs = runs(&bench).await;
    assert!((1_000..=1_000 + since).contains(&runs), "{runs} runs, {since} s since the start");
}

/// Real time, since the task that records them runs on real time.
pub(crate) async fn fires_that_a_pause_or_a_stop_skips_are_recorded(bench: Bench) {
    down_for(&bench, 1).await;
    let services = start(&bench, CatchUp::All).await;
    let service = services.get(FIRES).unwrap();
    until_served(&bench, Utc::now()).await;
    service.pause().await.unwrap();
    let ran = runs(&bench).await;
    until_served(&bench, Utc::now() + Duration::from_secs(2)).await;
    service.stop().await.unwrap();
    until_served(&bench, Utc::now() + Duration::from_secs(2)).await;
    assert!(runs(&bench).await <= ran + 1, "at most the run that was in progress");
    services.shutdown().await.unwrap();
}

/// Before the last fire can be read it is unknown which fires were missed, so nothing runs, and nothing is lost.
async fn missed_fires_are_made_up_when_the_database_answers() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    let server = std::sync::Arc::new(server);
    let bench = Bench::open(server.database(), None).await;
    let first = down_for(&bench, 20).await;
    let restarting = server.clone();
    tokio::task::spawn_blocking(move || {
        restarting.down();
        let _ = std::fs::remove_file(restarting.socket());
    })
    .await
    .unwrap();
    let services = start(&bench, CatchUp::All).await;
    let service = services.get(FIRES).unwrap();
    assert_eq!(service.state(), ServiceState::BackingOff);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let health = service.health();
    let reason = health.reason.unwrap();
    assert!(reason.contains("cannot read the last cron fire") && reason.contains(&bench.url), "{reason}");
    assert_eq!(health.runs, 0, "it does not run by its schedule either");
    let starting = server.clone();
    tokio::task::spawn_blocking(move || starting.up()).await.unwrap();
    until_served(&bench, Utc::now()).await;
    services.shutdown().await.unwrap();
    // Connections from before the outage are replaced.
    while bench.db.ping().await.is_err() {}
    let (fires, runs) = ((last_fire(&bench).await - first).num_seconds(), runs(&bench).await);
    assert_eq!(runs, fires);
    let last = internal::last_run(&bench.db, FIRES).await.unwrap();
    assert!(last.run >= last.fire, "{last:?}");
}

mod on_postgres_alone {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn missed_fires_are_made_up_when_the_database_answers() {
        super::missed_fires_are_made_up_when_the_database_answers().await;
    }
}
