//! A pool that one service exhausts: the health of other services, the shutdown and overrides still work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, Statement, TransactionTrait};
use service_core::ServiceOptions;
use service_core::database::{self, Override};
use service_core::prelude::*;

use crate::away::{builder, health, shuts_down_in_time, ticker_is_well, until};
use crate::concurrent::InFlight;

/// Takes every connection of the pool and releases none before it is stopped.
#[derive(Default)]
struct Hog;

#[service(interval = "1h", discover = false)]
impl Hog {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let mut held = Vec::new();
        loop {
            if let Ok(Ok(taken)) = tokio::time::timeout(Duration::from_secs(1), cx.db()?.begin()).await {
                taken.execute_unprepared("SELECT 1").await?;
                held.push(taken);
                cx.metrics().set("held", u32::try_from(held.len())?);
            }
        }
    }
}

async fn hogged(services: &ServiceRegistry, connections: f64) {
    let hog = || health(services, "hog").metrics.get("held").copied();
    until("the pool is exhausted", || hog() == Some(connections)).await;
}

pub(crate) async fn a_pool_that_one_service_exhausts_does_not_affect_health_and_shutdown(bench: crate::Bench) {
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(2).acquire_timeout(Duration::from_secs(2));
    let pool = Database::connect(options).await.unwrap();
    let hog = ServiceOptions::new().drain_timeout(Duration::from_secs(1));
    let services = builder().service("hog", Hog).options_of("hog", hog).database(pool).start_all().await.unwrap();
    hogged(&services, 2.0).await;
    ticker_is_well(&services).await;
    if bench.is_postgres() {
        // The registry uses the same pool, and cannot distinguish the two cases.
        until("it is reported", || {
            health(&services, "counter").reason.is_some_and(|why| why.contains("has not answered"))
        })
        .await;
    } else {
        // An existing file is not an outage, so the limit applies.
        until("it is failed", || health(&services, "counter").state == ServiceState::Failed).await;
        assert_eq!(health(&services, "counter").failures, 4);
    }
    let reason = health(&services, "counter").reason.unwrap();
    assert!(!reason.contains("down for"), "{reason}");
    assert!(bench.is_postgres() || reason.contains("timed out"), "{reason}");
    ticker_is_well(&services).await;
    shuts_down_in_time(&services).await;
}

/// If the registry opened the database itself, an override still takes effect.
pub(crate) async fn overrides_apply_while_the_pool_is_exhausted(bench: crate::Bench) {
    let services = builder().service_of::<Hog>("hog").database_url(&bench.url).start_all().await.unwrap();
    hogged(&services, if bench.is_postgres() { 10.0 } else { 5.0 }).await;
    let pause = Override::new("counter", "paused", true).by("ann").why("the pool is exhausted");
    database::set_override(&bench.db, &pause).await.unwrap();
    until("it is paused", || health(&services, "counter").paused).await;
    let reason = health(&services, "counter").reason.unwrap();
    assert!(reason.contains("ann") && !reason.contains("down for"), "{reason}");
    shuts_down_in_time(&services).await;
}

/// A migration that goes on for minutes. A query of the registry that waited for it would keep a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_locked_configuration_table_costs_no_connection_and_is_no_outage() {
    let Some(bench) = crate::Bench::postgres().await else { return };
    let migration = bench.db.begin().await.unwrap();
    migration.execute_unprepared("LOCK TABLE service_config IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let url = format!("{}&application_name=locked_out", bench.url);
    let services = builder().service_of::<Leader>("leader").database_url(&url).start_all().await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'locked_out' AND wait_event_type = 'Lock'";
    let mut free = None;
    // A poll waits for less than a second. Without a limit, its query waits until the migration ends.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10)
        && free.is_none_or(|free: Instant| free.elapsed() < Duration::from_secs(1))
    {
        let select = Statement::from_string(bench.db.get_database_backend(), waiting);
        let waits: i64 = bench.db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        free = if waits == 0 { free.or_else(|| Some(Instant::now())) } else { None };
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(free.is_some(), "a query waits for the lock");
    until("services work", || health(&services, "leader").runs > 0 && health(&services, "counter").runs > 0).await;
    for id in ["counter", "leader"] {
        assert_eq!(health(&services, id).reason, None);
    }
    migration.rollback().await.unwrap();
    shuts_down_in_time(&services).await;
}

/// One replica at a time runs it.
#[derive(Default)]
struct Leader;

#[service(interval = "100ms", scope = "cluster", lease = 10, discover = false)]
impl Leader {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.metrics().set("epoch", u32::try_from(cx.lease_epoch().unwrap_or_default())?);
        Ok(())
    }
}

/// Runs hold all connections for longer than a lease lasts, of a pool that the registry has opened, and of one that it
/// was given.
pub(crate) async fn a_lease_is_renewed_while_the_pool_is_exhausted(bench: crate::Bench) {
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(2).acquire_timeout(Duration::from_secs(2));
    let given = Database::connect(options.clone()).await.unwrap();
    let builders = [ServiceRegistry::builder().database_with(options), ServiceRegistry::builder().database(given)];
    for builder in builders {
        let builder = builder.without_discovered().shutdown_timeout(Duration::from_secs(2));
        let services = builder.service_of::<Leader>("leader").service_of::<Hog>("hog").start_all().await.unwrap();
        let epoch = || health(&services, "leader").metrics.get("epoch").copied();
        hogged(&services, 2.0).await;
        until("it has run", || epoch().is_some()).await;
        let mut kept = (epoch(), Instant::now());
        // A stall of the machine can cost a lease. So the time counts from the last change.
        until("it keeps one lease for longer than a lease lasts", || {
            if epoch() != kept.0 || health(&services, "leader").state != ServiceState::Running {
                kept = (epoch(), Instant::now());
            }
            kept.1.elapsed() > Duration::from_secs(12)
        })
        .await;
        shuts_down_in_time(&services).await;
    }
}

/// Fifty services need the database for their leases at the same moment. The registry opens one connection for all of
/// them beside the pool, one for its checks, and one for other work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_many_leases_share_one_connection_beside_an_exhausted_pool() {
    const SERVICES: usize = 50;
    let Some(bench) = crate::Bench::postgres().await else { return };
    let mut options = ConnectOptions::new(format!("{}&application_name=hogged", bench.url));
    options.max_connections(2).acquire_timeout(Duration::from_secs(2));
    let hog = ServiceOptions::new().drain_timeout(Duration::from_secs(1)).depends_on(["leader_0"]);
    let builder = ServiceRegistry::builder().without_discovered().shutdown_timeout(Duration::from_secs(8));
    let builder = builder.database_with(options).service_of::<Hog>("hog").options_of("hog", hog);
    let each_second = ServiceOptions::new().interval(Duration::from_secs(1));
    let builder = (0..SERVICES).fold(builder, |builder, n| {
        let id = format!("leader_{n}");
        builder.service_of::<Leader>(id.clone()).options_of(id, each_second.clone())
    });
    let services = builder.start_all().await.unwrap();
    hogged(&services, 2.0).await;
    let leaders = || (0..SERVICES).map(|n| health(&services, &format!("leader_{n}")));
    until("all have their leases", || leaders().all(|leader| leader.runs > 0)).await;
    let runs: Vec<u64> = leaders().map(|leader| leader.runs).collect();
    let ran = || leaders().zip(&runs).all(|(leader, runs)| leader.runs > runs + 2);

    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = 'hogged'";
    let connections = async || {
        let select = Statement::from_string(bench.db.get_database_backend(), count);
        bench.db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    let (begun, mut most) = (Instant::now(), 0);
    while !ran() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: three runs of each");
        most = most.max(connections().await);
    }
    let shutdown = tokio::spawn(async move { services.shutdown().await });
    while !shutdown.is_finished() {
        most = most.max(connections().await);
    }
    // The pool, the one for notifications, four beside the pool, and four that were closed a moment ago.
    assert!(most <= 2 + 1 + 4 + 4, "{most} connections");
}

/// Holds a connection for a while in each run.
struct Holder(Arc<InFlight>);

#[service(interval = "1h", max_failures = 0, discover = false)]
impl Holder {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let _in_flight = self.0.enter();
        let tx = cx.begin().await?;
        tx.execute_unprepared("SELECT 1").await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        tx.commit().await
    }
}

/// A thousand services are due at once on a pool of ten connections: they finish late, and none fails.
pub(crate) async fn many_services_share_a_small_pool(bench: crate::Bench) {
    let services = if bench.is_postgres() { 1_000 } else { 200 };
    let mut options = ConnectOptions::new(bench.url.clone());
    // Longer than a busy machine takes for eight runs.
    options.max_connections(10).acquire_timeout(Duration::from_secs(20));
    let pool = Database::connect(options).await.unwrap();
    let builder = ServiceRegistry::builder().without_discovered().database(pool).max_concurrent_runs(8);
    let in_flight = Arc::new(InFlight::default());
    let builder = (0..services).fold(builder, |builder, n| {
        let in_flight = in_flight.clone();
        builder.service_fn(format!("holder_{n}"), move || Holder(in_flight.clone()))
    });
    let registry = builder.start_all().await.unwrap();
    let ended = || registry.health().services.iter().all(|service| service.last_success.is_some());
    until("all have run", || {
        assert!(registry.health().services.iter().all(|service| service.error_count == 0));
        ended()
    })
    .await;
    assert_eq!(in_flight.most(), 8);
    shuts_down_in_time(&registry).await;
}
