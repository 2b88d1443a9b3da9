//! A server that answers, but cannot do its work: read-only, or without a free connection. That is an outage, which
//! fails no row and no service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use service_core::database;
use service_core::prelude::*;
use service_core::sea_orm::ConnectOptions;
use service_core::{HealthStatus, ServiceHealth};

use crate::Bench;
use crate::away::{health, until};
use crate::postgres::Postgres;
use crate::tables::{effect, effects, job, jobs, more_jobs, statuses};

#[derive(Default)]
struct Together;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Together {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim::<job::Entity>(5).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        batch.commit().await
    }
}

#[derive(Default)]
struct Each;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Each {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let mut batch = cx.claim_each::<job::Entity>(5).await?;
        while let Some(item) = batch.next().await? {
            let done = effect(item.tx(), item.model().id).await;
            item.settle(done).await?;
        }
        batch.commit().await
    }
}

#[derive(Default)]
struct Keeper;

#[service(interval = "50ms", retry_delay = "100ms", discover = false)]
impl Keeper {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        cx.store().set("seen", &true).await
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A primary that was demoted and is promoted again: for some seconds it accepts no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_read_only_for_some_seconds_is_waited_for() {
    let Some(server) = on_thread(Postgres::start).await else { return };
    let server = Arc::new(server);
    let url = on_thread({
        let server = server.clone();
        move || server.database()
    })
    .await;
    let bench = Bench::open(url, None).await;
    jobs(&bench.db, 40).await;
    let services = ServiceRegistry::builder()
        .without_discovered()
        .service_of::<Together>("together")
        .service_of::<Each>("each")
        .service_of::<Keeper>("keeper")
        .database_url(&bench.url)
        .start_all()
        .await
        .unwrap();
    let read_only = async |on: &str| {
        for sql in [
            "SET default_transaction_read_only = off",
            &format!("ALTER SYSTEM SET default_transaction_read_only = {on}"),
            "SELECT pg_reload_conf()",
        ] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
    };
    // A session that may write all the same.
    let writable = format!("{}&options=-c%20default_transaction_read_only%3Doff", bench.url);
    let db = database::connect(&writable).await.unwrap();
    until("the first rows are done", || health(&services, "together").total_processed > 0).await;
    read_only("on").await;
    // Without rows that are due, a poll of `each` needs no writes.
    more_jobs(&db, 41..=80).await;
    for id in ["together", "each", "keeper"] {
        until("health reports it", || {
            let found = health(&services, id);
            found.state == ServiceState::BackingOff
                && found.reason.is_some_and(|why| why.contains("has accepted no writes for"))
        })
        .await;
    }
    let before = health(&services, "keeper").error_count;
    until("more failures than the limit allows", || health(&services, "keeper").error_count > before + 5).await;
    for sql in ["ALTER SYSTEM SET default_transaction_read_only = off", "SELECT pg_reload_conf()"] {
        db.execute_unprepared(sql).await.unwrap();
    }
    for id in ["together", "each", "keeper"] {
        let runs = health(&services, id).runs;
        until("it recovers", || {
            let found: ServiceHealth = health(&services, id);
            found.runs > runs + 1 && found.status == HealthStatus::Healthy && found.failures == 0
        })
        .await;
    }
    let begun = Instant::now();
    while statuses(&db).await.iter().any(|status| status != "completed") {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", statuses(&db).await);
    }
    services.shutdown().await.unwrap();
    assert_eq!(effects(&db).await, (1..=80).collect::<Vec<_>>());
    for id in 1..=80 {
        assert_eq!(job(&db, id).await.attempts, 1);
    }
}

/// Eight processes of one service on a server that has nine connections for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_share_the_few_connections_of_a_server() {
    let Some(server) = on_thread(|| Postgres::start_with("-c max_connections=12")).await else { return };
    let server = Arc::new(server);
    let url = on_thread({
        let server = server.clone();
        move || server.database()
    })
    .await;
    let bench = Bench::open(url, None).await;
    jobs(&bench.db, 600).await;
    for sql in [
        "CREATE ROLE app LOGIN",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
        "GRANT ALL ON SCHEMA public TO app",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let url = bench.url.replace("tester@", "app@");
    let mut processes = Vec::new();
    for _ in 0..8 {
        let builder = ServiceRegistry::builder().without_discovered().migrate(false);
        processes.push(builder.service_of::<Together>("together").database_url(&url).start_all().await.unwrap());
    }
    let begun = Instant::now();
    while statuses(&bench.db).await.iter().any(|status| status != "completed") {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", effects(&bench.db).await.len());
    }
    for services in &processes {
        let found = health(services, "together");
        assert_ne!(found.state, ServiceState::Failed, "{found:?}");
    }
    // With fewer processes each finds a connection, the one that found none as well.
    for services in processes.drain(..4) {
        services.shutdown().await.unwrap();
    }
    for services in &processes {
        let runs = health(services, "together").runs;
        until("it runs on", || health(services, "together").runs > runs + 1).await;
    }
    for services in processes {
        services.shutdown().await.unwrap();
    }
    assert_eq!(effects(&bench.db).await.len(), 600);
}

/// What the system says of a connection that it refuses is not hidden by the pool's timeout.
#[tokio::test]
async fn the_cause_of_a_refused_connection_is_named() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    for (url, cause) in [
        (format!("postgres://tester@127.0.0.1:{port}/app"), "refused"),
        ("postgres://tester@localhost/app?host=/nowhere".to_owned(), "No such file"),
        ("postgres://tester@nowhere.invalid/app".to_owned(), "lookup address"),
        ("sqlite:/nowhere/app.db".to_owned(), "unable to open database file"),
    ] {
        let mut options = ConnectOptions::new(&url);
        options.acquire_timeout(Duration::from_secs(2));
        let builders = [
            ServiceRegistry::builder().database_with(options),
            // The time limit of this pool is 30 s, or 10 s for SQLite.
            ServiceRegistry::builder().database_url(&url),
        ];
        for builder in builders {
            let services = builder.without_discovered().service_of::<Together>("together").start_all().await.unwrap();
            until("the cause is named", || {
                health(&services, "together").last_error.is_some_and(|error| error.contains(cause))
            })
            .await;
            until("the outage is named", || {
                let found = services.get("together").unwrap().health();
                found.reason.is_some_and(|why| why.contains(cause) && why.contains("down for"))
            })
            .await;
            services.shutdown().await.unwrap();
        }
        let error = database::connect(&url).await.unwrap_err();
        assert!(format!("{error:#}").contains(cause), "{error:#}");
    }
}

/// The pool of the options is used, and what the registry needs of it is added.
pub(crate) async fn a_pool_with_options_of_its_own_serves_and_is_watched(bench: Bench) {
    jobs(&bench.db, 10).await;
    let mut options = ConnectOptions::new(&bench.url);
    options.max_connections(1).acquire_timeout(Duration::from_secs(3));
    let services = ServiceRegistry::builder()
        .without_discovered()
        .service_of::<Together>("together")
        .service_of::<Keeper>("keeper")
        .database_with(options)
        .start_all()
        .await
        .unwrap();
    until("the rows are done", || health(&services, "together").total_processed == 10).await;
    bench.db.execute_unprepared("INSERT INTO service_config VALUES ('keeper', 'interval', '\"1h\"')").await.unwrap();
    until("the tables are read", || services.get("keeper").unwrap().explain().to_string().contains("service_config"))
        .await;
    services.shutdown().await.unwrap();
}
