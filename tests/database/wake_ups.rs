//! Notifications through a database: after a commit, and from other replicas and programs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, Statement};
use service_core::database::{self, create_wake_trigger, wake_trigger_sql};
use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Bench;
use crate::away::{health, until};
use crate::postgres::Postgres;
use crate::tables::{create, job, more_jobs};

/// Runs once for each wake-up; the long schedule never comes in a test of real time.
#[derive(Default)]
struct Packer;

#[service(on_demand = true, wake_on = ["orders"], discover = false)]
impl Packer {
    async fn update(&mut self) {}
}

/// Runs after the notifications that were sent before, because they arrive in their order.
#[derive(Default)]
struct Fence;

#[service(on_demand = true, wake_on = ["fence"], discover = false)]
impl Fence {
    async fn update(&mut self) {}
}

/// Makes a transaction with a notification.
struct Clerk {
    commits: bool,
}

#[service(on_demand = true, discover = false)]
impl Clerk {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        tx.execute_unprepared("UPDATE job SET payload = 'taken'").await?;
        tx.notify("orders");
        tx.notify("orders");
        if self.commits { tx.commit().await } else { Ok(()) }
    }
}

/// What the code of an item does.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Complete,
    Fail,
    Panic,
}

/// Each item notifies a topic of its own.
struct Worker {
    each: bool,
    acts: Vec<Act>,
}

#[service(on_demand = true, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let act = async |item: &database::Item<job::Entity>| -> Result<()> {
            let id = item.model().id;
            item.tx().notify(&format!("done/{id}"));
            match self.acts[usize::try_from(id - 1).unwrap()] {
                Act::Complete => Ok(()),
                Act::Fail => Err(Error::msg("refused")),
                Act::Panic => panic!("broken"),
            }
        };
        if self.each {
            cx.claim_each::<job::Entity>(10).for_each(act).await
        } else {
            cx.claim::<job::Entity>(10).for_each(act).await
        }
    }
}

fn listening_to(topic: &str) -> service_core::ServiceOptions {
    service_core::ServiceOptions::new().on_demand(true).wake_on([topic])
}

async fn bed_on_sqlite() -> (TestBed, DatabaseConnection) {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    (bed, db)
}

async fn bed_on_postgres() -> Option<(TestBed, DatabaseConnection)> {
    let server = tokio::task::spawn_blocking(Postgres::shared).await.unwrap()?;
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let bed = TestBed::new();
    let db = bed.database_url(url).await;
    Some((bed, db))
}

/// Each case is a test on virtual time on each engine.
macro_rules! on_virtual_time {
    ($($case:ident),+) => {
        mod on_virtual_time {
            $(mod $case {
                #[tokio::test(start_paused = true)]
                async fn on_sqlite() {
                    let (bed, db) = crate::wake_ups::bed_on_sqlite().await;
                    crate::wake_ups::$case(bed, db).await;
                }
                #[tokio::test(start_paused = true)]
                async fn on_postgres() {
                    if let Some((bed, db)) = crate::wake_ups::bed_on_postgres().await {
                        crate::wake_ups::$case(bed, db).await;
                    }
                }
            })+
        }
    };
}

on_virtual_time!(
    a_notification_of_a_transaction_follows_its_commit,
    items_that_fail_drop_their_notifications,
    a_start_counts_as_a_notification,
    rows_that_are_tried_again_wake_the_services_that_claim_them
);

async fn a_notification_of_a_transaction_follows_its_commit(bed: TestBed, db: DatabaseConnection) {
    create(&db, job::Entity).await;
    let packer = bed.start_of::<Packer>().await;
    bed.run_for(Duration::from_secs(10)).await;
    let started = packer.health().runs;
    let services = bed.services().await;
    let undecided = services.register("undecided", Clerk { commits: false }).start().await.unwrap();
    undecided.run_now().await.unwrap();
    bed.run_for(Duration::from_secs(3_600)).await;
    assert_eq!((undecided.health().error_count, packer.health().runs), (0, started), "it was rolled back");
    let clerk = services.register("clerk", Clerk { commits: true }).start().await.unwrap();
    clerk.run_now().await.unwrap();
    bed.run_for(Duration::from_secs(3_600)).await;
    assert_eq!((clerk.health().error_count, packer.health().runs), (0, started + 1));
}

async fn items_that_fail_drop_their_notifications(bed: TestBed, db: DatabaseConnection) {
    create(&db, job::Entity).await;
    let services = bed.services().await;
    for (name, each) in [("together", false), ("each", true)] {
        db.execute_unprepared("DELETE FROM job").await.unwrap();
        more_jobs(&db, 1..=4).await;
        let mut listeners = Vec::new();
        for id in 1..=4 {
            let listener = services.register_of::<Packer>(format!("{name}_{id}"));
            listeners.push(listener.options(listening_to(&format!("done/{id}"))).start().await.unwrap());
        }
        bed.run_for(Duration::from_secs(1)).await;
        let acts = vec![Act::Complete, Act::Fail, Act::Panic, Act::Complete];
        let worker = services.register(name, Worker { each, acts }).start().await.unwrap();
        let report = worker.run_now().await.unwrap();
        assert_eq!((report.processed(), report.failed()), (2, 2));
        bed.run_for(Duration::from_secs(1)).await;
        let runs: Vec<u64> = listeners.iter().map(|listener| listener.health().runs).collect();
        assert_eq!(runs, [2, 1, 1, 2], "{name}: the first runs are those of the start");
        for id in 1..=4 {
            services.unregister(&format!("{name}_{id}")).await.unwrap();
        }
        services.unregister(name).await.unwrap();
    }
}

#[derive(Default)]
struct Yearly;

#[service(cron = "0 0 1 1 *", wake_on = ["orders"], discover = false)]
impl Yearly {
    async fn update(&mut self) {}
}

/// Rows may have been inserted before.
async fn a_start_counts_as_a_notification(bed: TestBed, _db: DatabaseConnection) {
    let yearly = bed.start_of::<Yearly>().await;
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(yearly.health().runs, 1);
    yearly.stop().await.unwrap();
    bed.services().await.notify("orders");
    yearly.start().await.unwrap();
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(yearly.health().runs, 2);
}

/// Claims jobs when it is woken.
#[derive(Default)]
struct Claimer;

#[service(on_demand = true, wake_on = ["jobs", "more/jobs"], discover = false)]
impl Claimer {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim::<job::Entity>(10).for_each(async |_| ()).await
    }
}

async fn rows_that_are_tried_again_wake_the_services_that_claim_them(bed: TestBed, db: DatabaseConnection) {
    create(&db, job::Entity).await;
    let (claimer, packer) = (bed.start_of::<Claimer>().await, bed.start_of::<Packer>().await);
    bed.run_for(Duration::from_secs(60)).await;
    more_jobs(&db, 1..=3).await;
    db.execute_unprepared("UPDATE job SET status = 'failed' WHERE id < 3").await.unwrap();
    let first = database::retry_failed::<job::Entity>(&db, job::Column::Id.eq(1)).await.unwrap();
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!((first, claimer.health().total_processed, claimer.health().runs), (1, 2, 2));
    let none = database::retry_failed::<job::Entity>(&db, job::Column::Id.eq(1)).await.unwrap();
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!((none, claimer.health().runs, packer.health().runs), (0, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_database_a_start_notifies_nothing() {
    let bed = TestBed::new();
    let yearly = bed.start_of::<Yearly>().await;
    bed.run_for(Duration::from_secs(60)).await;
    assert_eq!(yearly.health().runs, 0);
}

// ── several replicas ─────────────────────────────────────────────────────────────────────────────────────────────────

async fn replica(url: &str) -> ServiceRegistry {
    let builder = ServiceRegistry::builder().without_discovered().database_url(url);
    builder.service_of::<Packer>("packer").service_of::<Fence>("fence").start_all().await.unwrap()
}

fn runs(services: &ServiceRegistry) -> u64 {
    health(services, "packer").runs
}

/// Waits until the replicas have received all notifications so far, and have run.
async fn settled(db: &DatabaseConnection, replicas: &[&ServiceRegistry]) {
    // The second one comes after the run that an earlier notification began.
    for _ in 0..2 {
        let before: Vec<u64> = replicas.iter().map(|replica| health(replica, "fence").runs).collect();
        db.execute_unprepared("NOTIFY service_wake, 'fence'").await.unwrap();
        let have_run = || replicas.iter().zip(&before).all(|(replica, before)| health(replica, "fence").runs > *before);
        until("the fence", have_run).await;
    }
}

async fn two_replicas() -> Option<(Bench, [ServiceRegistry; 2])> {
    let bench = Bench::postgres().await?;
    let replicas = [replica(&bench.url).await, replica(&bench.url).await];
    for replica in &replicas {
        until("the first run", || runs(replica) == 1).await;
    }
    Some((bench, replicas))
}

async fn stop(replicas: [ServiceRegistry; 2]) {
    for replica in replicas {
        replica.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_reaches_every_replica_and_each_runs_once() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    here.notify("orders");
    until("the other replica runs", || runs(&there) == 2).await;
    settled(&bench.db, &[&here, &there]).await;
    assert_eq!((runs(&here), runs(&there)), (2, 2), "the sender ignores its own notification");
    there.notify("nothing listens to this");
    there.notify("orders");
    until("the other replica runs", || runs(&here) == 3).await;
    stop([here, there]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_any_program_inserts_wake_every_replica() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    create(&bench.db, job::Entity).await;
    create_wake_trigger::<job::Entity>(&bench.db, "orders").await.unwrap();
    more_jobs(&bench.db, 1..=3).await;
    until("both run", || runs(&here) == 2 && runs(&there) == 2).await;
    bench.db.execute_unprepared("BEGIN; INSERT INTO job SELECT 4, payload, status, error_message, attempts, due, updated_at FROM job WHERE id = 1; ROLLBACK").await.unwrap();
    bench.db.execute_unprepared("UPDATE job SET status = 'completed' WHERE id < 3").await.unwrap();
    bench.db.execute_unprepared("UPDATE job SET attempts = 1 WHERE id = 3").await.unwrap();
    settled(&bench.db, &[&here, &there]).await;
    assert_eq!((runs(&here), runs(&there)), (2, 2), "nothing waits for work that did not before");
    bench.db.execute_unprepared("UPDATE job SET status = 'failed'").await.unwrap();
    let all = sea_orm::Condition::all();
    assert_eq!(database::retry_failed::<job::Entity>(&bench.db, all).await.unwrap(), 3);
    until("both run again", || runs(&here) == 3 && runs(&there) == 3).await;
    stop([here, there]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_notifies_other_replicas_and_a_rollback_does_not() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    create(&bench.db, job::Entity).await;
    let undecided = here.register("undecided", Clerk { commits: false }).start().await.unwrap();
    undecided.run_now().await.unwrap();
    settled(&bench.db, &[&here, &there]).await;
    assert_eq!((undecided.health().error_count, runs(&here), runs(&there)), (0, 1, 1));
    let clerk = here.register("clerk", Clerk { commits: true }).start().await.unwrap();
    clerk.run_now().await.unwrap();
    until("the other replica runs", || runs(&there) == 2).await;
    settled(&bench.db, &[&here, &there]).await;
    assert_eq!((clerk.health().error_count, runs(&here), runs(&there)), (0, 2, 2));
    stop([here, there]).await;
}

/// The process may end as soon as its shutdown has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_right_before_a_shutdown_reaches_other_replicas() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    let url = bench.url.clone();
    // Its runtime ends with the shutdown, as a process does.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ending = replica(&url).await;
            ending.notify("orders");
            ending.shutdown().await.unwrap();
        });
    })
    .join()
    .unwrap();
    until("both run", || runs(&here) == 2 && runs(&there) == 2).await;
    stop([here, there]).await;
}

/// Also if the connection is opened again for a service that starts now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_for_a_start_every_topic_counts_as_notified() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    for round in 2..=4 {
        let before = runs(&here);
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query ILIKE 'listen%'";
        bench.db.execute_unprepared(cut).await.unwrap();
        // The connection is opened again after a quarter of a second at most.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        here.register_of::<Packer>(format!("later_{round}")).start().await.unwrap();
        until("it has run", || runs(&here) > before).await;
    }
    stop([here, there]).await;
}

/// How many connections listen.
async fn listening(db: &DatabaseConnection) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'listen%'";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

/// Notifications may be lost while no connection listens, so each topic counts as notified afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_every_topic_counts_as_notified() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    for round in 2..=4 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query ILIKE 'listen%'";
        bench.db.execute_unprepared(cut).await.unwrap();
        until("both have run", || runs(&here) >= round && runs(&there) >= round).await;
    }
    let before = (runs(&here), runs(&there));
    bench.db.execute_unprepared("NOTIFY service_wake, 'orders'").await.unwrap();
    until("both run again", || runs(&here) > before.0 && runs(&there) > before.1).await;
    for replica in [&here, &there] {
        assert_eq!((health(replica, "packer").error_count, health(replica, "packer").failures), (0, 0));
    }
    stop([here, there]).await;
}

/// A notification during an outage wakes the services of this process at once, and others when the database is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_while_the_database_is_away_is_sent_later() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    let server = Arc::new(server);
    let on_thread = async |work: fn(&Postgres) -> String| {
        let server = server.clone();
        tokio::task::spawn_blocking(move || work(&server)).await.unwrap()
    };
    let url = on_thread(Postgres::database).await;
    let (here, there) = (replica(&url).await, replica(&url).await);
    until("the first runs", || runs(&here) == 1 && runs(&there) == 1).await;
    on_thread(|server| {
        server.down();
        String::new()
    })
    .await;
    here.notify("orders");
    until("it runs here", || runs(&here) == 2).await;
    on_thread(|server| {
        server.up();
        String::new()
    })
    .await;
    until("it runs there", || runs(&there) >= 2).await;
    stop([here, there]).await;
}

/// Runs for the last topic of many.
#[derive(Default)]
struct Last;

#[service(on_demand = true, wake_on = ["t1999"], discover = false)]
impl Last {
    async fn update(&mut self) {}
}

/// Notifies two thousand topics with one commit.
#[derive(Default)]
struct Crier;

#[service(on_demand = true, discover = false)]
impl Crier {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        tx.execute_unprepared("UPDATE job SET payload = 'taken'").await?;
        (0..2_000).for_each(|n| tx.notify(&format!("t{n}")));
        tx.commit().await
    }
}

/// PostgreSQL does not accept as many columns in a query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_topics_are_notified_at_once() {
    let Some((bench, [here, there])) = two_replicas().await else { return };
    create(&bench.db, job::Entity).await;
    let last = there.register_of::<Last>("last").start().await.unwrap();
    until("the first run", || last.health().runs == 1).await;
    (0..2_000).for_each(|n| here.notify(&format!("t{n}")));
    until("the last topic arrives", || last.health().runs == 2).await;
    let crier = here.register_of::<Crier>("crier").start().await.unwrap();
    crier.run_now().await.unwrap();
    assert_eq!((crier.health().error_count, crier.health().last_error), (0, None));
    until("the last topic arrives with a commit", || last.health().runs == 3).await;
    stop([here, there]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_registry_with_topics_has_a_connection_for_them() {
    let Some(bench) = Bench::postgres().await else { return };
    let builder = ServiceRegistry::builder().without_discovered().database(bench.db.clone());
    let services = builder.service("clerk", Clerk { commits: false }).start_all().await.unwrap();
    services.notify("orders");
    assert_eq!(listening(&bench.db).await, 0);
    let packer = services.register_of::<Packer>("packer").start().await.unwrap();
    let begun = std::time::Instant::now();
    while listening(&bench.db).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no connection listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(listening(&bench.db).await, 1);
    let before = packer.health().runs;
    bench.db.execute_unprepared("NOTIFY service_wake, 'orders'").await.unwrap();
    until("it is woken", || packer.health().runs > before).await;
    services.shutdown().await.unwrap();
}

// ── poolers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A proxy that drops notifications, as a pooler in transaction mode does. Returns the URL that leads through it.
fn deaf_proxy(server: &Postgres, url: &str, dir: &Path) -> String {
    let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).unwrap();
    let target = server.socket();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let Ok(server) = UnixStream::connect(&target).await else { return };
                let ((mut from_client, to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::join!(
                    async move {
                        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                        let _ = to_server.shutdown().await;
                    },
                    drop_notifications(from_server, to_client)
                );
            });
        }
    });
    let (path, _) = url.split_once('?').unwrap();
    format!("{path}?host={}", dir.display())
}

async fn drop_notifications(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
    let mut is_first = true;
    while let Ok(kind) = from.read_u8().await {
        let mut message = vec![kind];
        // The answer to a request for encryption is one byte.
        if !std::mem::take(&mut is_first) || kind != b'N' {
            let Ok(length) = from.read_u32().await else { break };
            message.extend(length.to_be_bytes());
            message.resize(1 + usize::try_from(length).unwrap(), 0);
            if from.read_exact(&mut message[5..]).await.is_err() {
                break;
            }
        }
        // NotificationResponse.
        if kind != b'A' && to.write_all(&message).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[tokio::test]
async fn a_pooler_that_drops_notifications_is_reported_once_and_a_direct_url_leads_around_it() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::shared).await.unwrap() else { return };
    let Some(bench) = Bench::postgres().await else { return };
    let (log, _guard) = crate::log::Log::listen();
    let dir = tempfile::tempdir().unwrap();
    let pooled = deaf_proxy(server, &bench.url, dir.path());
    let builder = || {
        let builder = ServiceRegistry::builder().without_discovered().database_url(&pooled);
        builder.service_of::<Packer>("packer").service_of::<Polling>("polling")
    };
    let is_report = |line: &String| line.contains("notifications do not arrive");

    let services = builder().database_direct_url(&bench.url).start_all().await.unwrap();
    until("the first run", || runs(&services) == 1).await;
    bench.db.execute_unprepared("NOTIFY service_wake, 'orders'").await.unwrap();
    until("it is woken", || runs(&services) == 2).await;
    services.shutdown().await.unwrap();
    drop(services);

    let services = builder().start_all().await.unwrap();
    until("the report", || log.warnings().iter().any(is_report)).await;
    let polled = health(&services, "polling").runs;
    services.notify("orders");
    until("this process wakes its own services", || runs(&services) == 2).await;
    until("the schedule goes on", || health(&services, "polling").runs > polled + 1).await;
    let reports: Vec<String> = log.warnings().into_iter().filter(is_report).collect();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].contains("`database_direct_url`"), "{reports:?}");
    services.shutdown().await.unwrap();
}

/// One replica at a time runs it.
#[derive(Default)]
struct Single;

#[service(on_demand = true, wake_on = ["orders"], scope = "cluster", discover = false)]
impl Single {
    async fn update(&mut self) {}
}

/// Then the request to the holder is a row.
#[tokio::test]
async fn behind_a_pooler_that_drops_notifications_a_standby_wakes_the_holder() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::shared).await.unwrap() else { return };
    let Some(bench) = Bench::postgres().await else { return };
    let (log, _guard) = crate::log::Log::listen();
    let dir = tempfile::tempdir().unwrap();
    let pooled = deaf_proxy(server, &bench.url, dir.path());
    let start = async || {
        let builder = ServiceRegistry::builder().without_discovered().database_url(&pooled);
        builder.service_of::<Single>("single").start_all().await.unwrap()
    };
    let holder = start().await;
    until("the first run", || health(&holder, "single").runs == 1).await;
    let standby = start().await;
    until("it stands by", || health(&standby, "single").state == ServiceState::Standby).await;
    let reports = || log.warnings().iter().filter(|line| line.contains("notifications do not arrive")).count();
    until("both report that notifications do not arrive", || reports() == 2).await;
    standby.notify("orders");
    until("the holder runs", || health(&holder, "single").runs == 2).await;
    for services in [standby, holder] {
        services.shutdown().await.unwrap();
    }
}

#[derive(Default)]
struct Polling;

#[service(interval = "100ms", wake_on = ["orders"], discover = false)]
impl Polling {
    async fn update(&mut self) {}
}

#[tokio::test]
async fn a_direct_url_that_can_never_work_is_an_error_of_build() {
    let build = async |database: &str, direct: &str| {
        let builder = ServiceRegistry::builder().without_discovered().database_url(database);
        format!("{:#}", builder.database_direct_url(direct).build().await.unwrap_err())
    };
    let error = build("postgres://ann@pooler/app", "sqlite:app.db").await;
    assert!(error.contains("`database_direct_url` is for a PostgreSQL server"), "{error}");
    let error = build("sqlite::memory:", "postgres://ann@db/app").await;
    assert!(error.contains("needs a PostgreSQL database"), "{error}");
    let error = build("postgres://ann@pooler/app", "postgres://ann:sec ret@db:port/app").await;
    assert!(error.contains("is not a valid database URL") && !error.contains("sec ret"), "{error}");
}

// ── the trigger ──────────────────────────────────────────────────────────────────────────────────────────────────────

pub(crate) mod odd {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    /// Names that need quotes everywhere.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, WorkItem)]
    #[sea_orm(schema_name = "Ann's shop", table_name = "or\"der")]
    #[work_item(status = "status")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        #[sea_orm(column_name = "The \"Status\"")]
        pub(crate) status: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) async fn wake_triggers_are_created_once_and_their_names_are_quoted(bench: Bench) {
    if !bench.is_postgres() {
        create(&bench.db, job::Entity).await;
        let error = create_wake_trigger::<job::Entity>(&bench.db, "orders").await.unwrap_err().to_string();
        assert!(error.contains("needs PostgreSQL") && error.contains("tx.notify"), "{error}");
        return;
    }
    bench.db.execute_unprepared("CREATE SCHEMA \"Ann's shop\"").await.unwrap();
    create(&bench.db, odd::Entity).await;
    let long = "a".repeat(100);
    let creating: Vec<_> = (0..6)
        .map(|n| {
            let (db, topic) = (bench.db.clone(), if n % 2 == 0 { "orders:new/1".to_owned() } else { long.clone() });
            tokio::spawn(async move { create_wake_trigger::<odd::Entity>(&db, &topic).await })
        })
        .collect();
    for created in creating {
        created.await.unwrap().unwrap();
    }
    // A program that owns neither the table nor the function may ask for what is there.
    for sql in ["CREATE ROLE guest LOGIN", "GRANT USAGE ON SCHEMA \"Ann's shop\" TO guest"] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let guest = service_core::database::connect(&bench.url.replace("tester@", "guest@")).await.unwrap();
    create_wake_trigger::<odd::Entity>(&guest, &long).await.unwrap();
    let sql = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal";
    let row = bench.db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 4);
    for topic in ["", "two words", "it's", &"a".repeat(101)] {
        let error = wake_trigger_sql::<odd::Entity>(topic).unwrap_err().to_string();
        assert!(error.contains("is not a topic"), "{error}");
    }
    let builder = ServiceRegistry::builder().without_discovered().database_url(&bench.url);
    let services = builder.service_of::<Packer>("short").service_of::<Packer>("packer");
    let services = services.options_of("short", listening_to("orders:new/1")).options_of("packer", listening_to(&long));
    let services = services.start_all().await.unwrap();
    until("the first runs", || health(&services, "short").runs == 1 && runs(&services) == 1).await;
    let row = odd::ActiveModel { id: sea_orm::NotSet, status: sea_orm::Set("pending".to_owned()) };
    odd::Entity::insert(row).exec_without_returning(&bench.db).await.unwrap();
    until("both are woken", || health(&services, "short").runs == 2 && runs(&services) == 2).await;
    services.shutdown().await.unwrap();
}
