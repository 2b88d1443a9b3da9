//! Another session has locked the framework's own tables, or rows of them, on PostgreSQL. Or the tables vanish.
//!
//! Real time: the locks are those of a server.

use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait};
use service_core::database::{self, Override, remove_override, set_override};
use service_core::prelude::*;

use crate::Bench;
use crate::away::{builder, health, shuts_down_in_time, ticker_is_well, until};

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

/// Its fires are recorded.
#[derive(Default)]
struct Nightly;

#[service(cron = "* * * * * *", catch_up = "latest", discover = false)]
impl Nightly {
    async fn update(&mut self) {}
}

fn all(bench: &Bench, name: &str) -> service_core::RegistryBuilder {
    let services = builder().service_of::<Leader>("leader").service_of::<Nightly>("nightly");
    services.database_url(format!("{}&application_name={name}", bench.url))
}

async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
    let select = Statement::from_string(db.get_database_backend(), sql);
    db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// A migration that goes on for minutes. A statement of the registry that waited for it would keep a connection of the
/// services, and each further try one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_the_registry_waits_long_for_a_lock() {
    let Some(bench) = Bench::postgres().await else { return };
    let services = all(&bench, "locked_tables").start_all().await.unwrap();
    let runs = || ["leader", "nightly", "counter"].map(|id| health(&services, id).runs);
    until("all services run", || runs().iter().all(|runs| *runs > 0)).await;
    services.get("nightly").unwrap().pause().await.unwrap();
    let migration = bench.db.begin().await.unwrap();
    let tables = "service_lease, service_epoch, service_state, service_request, service_replica, service_override";
    migration.execute_unprepared(&format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND application_name = 'locked_tables' AND wait_event_type = 'Lock' AND now() - query_start > '4s'";
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert_eq!(number(&bench.db, waits).await, 0, "a statement waits for the lock");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Services that need none of these tables work.
    let counted = health(&services, "counter").runs;
    until("the counter runs on", || health(&services, "counter").runs > counted + 5).await;
    ticker_is_well(&services).await;
    migration.rollback().await.unwrap();
    services.get("nightly").unwrap().resume().await.unwrap();
    let before = runs();
    until("all run again", || runs().iter().zip(before).all(|(runs, before)| *runs > before)).await;
    shuts_down_in_time(&services).await;
}

/// A session has locked the row of one lease, for longer than a lease lasts: only that one is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_row_of_a_lease_costs_no_other_lease() {
    let Some(bench) = Bench::postgres().await else { return };
    let services = all(&bench, "locked_row").service_of::<Leader>("other").start_all().await.unwrap();
    let epoch = |id: &str| health(&services, id).metrics.get("epoch").copied();
    until("both run", || epoch("leader").is_some() && epoch("other").is_some()).await;
    let begun = (epoch("other"), Instant::now());
    let session = bench.db.begin().await.unwrap();
    session.execute_unprepared("SELECT 1 FROM service_lease WHERE service_id = 'leader' FOR UPDATE").await.unwrap();
    until("the lease is lost", || health(&services, "leader").state == ServiceState::Standby).await;
    // A stall of the machine can cost both, at the same moment.
    assert_eq!((epoch("other"), begun.0.is_some()), (begun.0, true), "after {:?}", begun.1.elapsed());
    session.rollback().await.unwrap();
    until("it runs again", || health(&services, "leader").state == ServiceState::Running).await;
    shuts_down_in_time(&services).await;
}

/// A lock on `service_config` does not end pauses, neither at a start nor later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overrides_apply_while_service_config_is_locked() {
    let Some(bench) = Bench::postgres().await else { return };
    set_override(&bench.db, &Override::new("leader", "paused", true).by("ann")).await.unwrap();
    let migration = bench.db.begin().await.unwrap();
    migration.execute_unprepared("LOCK TABLE service_config IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let services = all(&bench, "locked_config").start_all().await.unwrap();
    until("it has its lease", || health(&services, "leader").state == ServiceState::Paused).await;
    assert_eq!(health(&services, "leader").runs, 0);
    assert!(remove_override(&bench.db, "leader", "paused").await.unwrap());
    until("the pause ends", || health(&services, "leader").runs > 0).await;
    set_override(&bench.db, &Override::new("leader", "paused", true)).await.unwrap();
    until("it is paused again", || health(&services, "leader").paused).await;
    migration.rollback().await.unwrap();
    database::remove_override(&bench.db, "leader", "paused").await.unwrap();
    until("the pause ends", || !health(&services, "leader").paused).await;
    shuts_down_in_time(&services).await;
}

/// The role limits each statement to less than the wait for the lock under which tables are created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_another_process_that_creates_the_tables() {
    let Some(bench) = Bench::postgres().await else { return };
    bench.db.execute_unprepared("DROP TABLE service_store").await.unwrap();
    let migration = bench.db.begin().await.unwrap();
    // The key of the advisory lock: "service\0\0" as a number.
    migration.execute_unprepared("SELECT pg_advisory_xact_lock(x'0073657276696365'::bigint)").await.unwrap();
    let url = format!("{}&options[statement_timeout]=500ms", bench.url);
    let services = builder().database_url(url).start_all().await.unwrap();
    ticker_is_well(&services).await;
    migration.rollback().await.unwrap();
    until("the tables are created", || health(&services, "counter").runs > 0).await;
    shuts_down_in_time(&services).await;
}

/// A session locks the leases for some seconds while the holder stops: another replica does not wait for the end of the
/// lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_released_after_a_lock() {
    let Some(bench) = Bench::postgres().await else { return };
    let one = |name: &str| {
        let services = ServiceRegistry::builder().without_discovered().service_of::<Leader>("leader");
        services.set("leader.lease", 60).database_url(format!("{}&application_name={name}", bench.url))
    };
    let holder = one("holder").start_all().await.unwrap();
    until("it runs", || health(&holder, "leader").runs > 0).await;
    let next = one("next").start_all().await.unwrap();
    until("it stands by", || health(&next, "leader").state == ServiceState::Standby).await;
    let migration = bench.db.begin().await.unwrap();
    migration.execute_unprepared("LOCK TABLE service_lease IN SHARE MODE").await.unwrap();
    let begun = Instant::now();
    let unlocked = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        migration.rollback().await.unwrap();
    };
    let (stopped, ()) = tokio::join!(holder.shutdown(), unlocked);
    stopped.unwrap();
    until("the next one runs", || health(&next, "leader").runs > 0).await;
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    next.shutdown().await.unwrap();
}

/// An application has a table of that name, with other columns. The other tables are used.
pub(crate) async fn a_start_ignores_a_table_that_cannot_be_read(bench: Bench) {
    bench.db.execute_unprepared("DROP TABLE service_override").await.unwrap();
    bench.db.execute_unprepared("CREATE TABLE service_override (id INTEGER)").await.unwrap();
    bench.db.execute_unprepared("INSERT INTO service_config VALUES ('counter', 'interval', '0.05')").await.unwrap();
    let services = builder().database_url(bench.url.clone()).start_all().await.unwrap();
    until("all run", || health(&services, "counter").runs > 0).await;
    let explained = services.get("counter").unwrap().explain().to_string();
    assert!(explained.contains("50ms"), "{explained}");
    services.shutdown().await.unwrap();
}

/// The database is restored, or made anew, while the program runs.
pub(crate) async fn tables_that_vanish_are_created_again(bench: Bench) {
    let url = if bench.is_postgres() { format!("{}&application_name=anew", bench.url) } else { bench.url.clone() };
    let services = builder().service_of::<Leader>("leader").service_of::<Nightly>("nightly").database_url(url);
    let services = services.set("counter.max_failures", 1_000_000).start_all().await.unwrap();
    let runs = || ["leader", "nightly", "counter"].map(|id| health(&services, id).runs);
    until("all services run", || runs().iter().all(|runs| *runs > 0)).await;
    for table in [
        "service_claim",
        "service_config",
        "service_override",
        "service_state",
        "service_store",
        "service_lease",
        "service_epoch",
        "service_replica",
        "service_request",
        "service_audit",
    ] {
        bench.db.execute_unprepared(&format!("DROP TABLE {table}")).await.unwrap();
    }
    let before = runs();
    until("all succeed again", || {
        let well = ["leader", "nightly", "counter"].iter().all(|id| health(&services, id).failures == 0);
        well && runs().iter().zip(before).all(|(runs, before)| *runs > before + 5)
    })
    .await;
    shuts_down_in_time(&services).await;
}
