//! Which replica runs a service: release, kill, partition, and an outage of the database.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use service_core::database::{Item, Override, set_override};
use service_core::prelude::*;
use service_core::testing::TestBed;

use super::{Log, Worker, start};
use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs};

on_each! {
    one_replica_runs_and_the_other_stands_by,
    a_stop_hands_over_within_a_second,
    a_killed_holder_is_replaced_when_its_lease_is_over,
    while_a_blocking_cleanup_continues_no_other_replica_runs_the_service,
    an_expired_lease_is_not_renewed,
    a_holder_without_the_database_gives_up_before_another_takes_over,
    without_the_database_every_replica_stands_by,
    the_former_holder_stands_by_and_takes_over_again,
    a_lost_lease_is_no_failure,
    claims_of_a_lost_lease_are_released_when_the_database_is_back,
    a_stop_after_an_outage_releases_the_claims_of_the_last_run,
    a_lost_lease_ends_the_runs_of_children,
    a_service_that_depends_on_a_standby_starts,
    a_replica_stands_by_although_its_dependency_failed_at_first,
    time_moves_while_an_override_expires_on_a_replica_that_is_cut_off,
    a_replica_on_standby_has_no_instance_for_other_services,
    a_replica_that_is_stopped_while_it_stands_by_takes_nothing,
    a_hand_over_in_the_future_reserves_nothing,
    a_replica_that_was_seen_in_the_future_is_not_live_and_gets_no_service,
    a_shutdown_releases_the_lease_also_if_cleanup_does_not_end,
    a_shutdown_during_a_hand_over_releases_the_lease_also_if_cleanup_does_not_end,
    a_clock_that_was_set_back_is_named,
}

async fn one_replica_runs_and_the_other_stands_by(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    replicas.run_for(60.0).await;
    assert_eq!(log.times("a runs"), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    assert_eq!((log.times("b runs").len(), b.health().runs), (0, 0));
    let health = b.health();
    assert!(health.running, "{health:?}");
    assert_eq!(health.status, HealthStatus::Healthy, "{health:?}");
    let reason = health.reason.unwrap();
    assert!(
        reason.starts_with("standby: held by ") && reason.contains("(pid ") && reason.contains("epoch 1"),
        "{reason}"
    );
    assert!(b.explain().to_string().contains(&reason[..20]), "{}", b.explain());
}

async fn a_stop_hands_over_within_a_second(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    replicas.run_for(15.0).await;
    a.stop().await.unwrap();
    assert_eq!(log.times("a cleans up"), [15.0]);
    replicas.run_for(1.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Stopped, ServiceState::Running));
    // The other one takes it over when that one stops, in turn.
    a.start().await.unwrap();
    assert_eq!(a.state(), ServiceState::Standby);
    b.stop().await.unwrap();
    replicas.run_for(1.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Stopped));
}

/// Lends its context to other services.
struct Lender(Arc<OnceLock<Context>>);

#[service(interval = "1h", discover = false)]
impl Lender {
    async fn update(&mut self, cx: &Context) {
        let _ = self.0.set(cx.clone());
    }
}

/// Its blocking `cleanup` takes 20 s, and cannot be aborted.
struct SlowToEnd(Log, Arc<OnceLock<Context>>);

#[service(interval = 10, scope = "cluster", lease = 30, drain_timeout = 5, discover = false)]
impl SlowToEnd {
    async fn update(&mut self) {}

    fn cleanup(&mut self) {
        // A sleep in the context of this service would end at once, because the service is stopping.
        self.1.get().expect("it is lent").blocking_sleep(Duration::from_secs(20));
        self.0.add("is cleaned up");
    }
}

async fn while_a_blocking_cleanup_continues_no_other_replica_runs_the_service(replicas: Bed) {
    let (log, lent, other) = (Log::new(), Arc::<OnceLock<Context>>::default(), replicas.other().await);
    replicas.bed.start(Lender(lent.clone())).await;
    let build = {
        let log = log.clone();
        move || SlowToEnd(log.clone(), lent.clone())
    };
    let (a, b) = (replicas.bed.start_fn(build.clone()).await, other.start_fn(build).await);
    replicas.run_for(5.0).await;
    a.stop().await.unwrap();
    assert_eq!((a.state(), log.began.elapsed().as_secs()), (ServiceState::Stopped, 10));
    replicas.run_for(13.0).await;
    assert_eq!((b.state(), log.times("is cleaned up").len()), (ServiceState::Standby, 0));
    // The lease has expired: it was renewed at the latest when the service stopped.
    replicas.run_for(25.0).await;
    assert_eq!((b.state(), log.times("is cleaned up")), (ServiceState::Running, vec![25.0]));
    b.stop().await.unwrap();
}

async fn a_killed_holder_is_replaced_when_its_lease_is_over(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&other, "a", &log, 0.0).await;
    let b = start(&replicas.bed, "b", &log, 0.0).await;
    replicas.run_for(5.0).await;
    assert_eq!(a.state(), ServiceState::Running);
    replicas.bed.kill(other).await;
    // The lease was renewed at the start, and lasts 30 s.
    replicas.run_for(24.0).await;
    assert_eq!(b.state(), ServiceState::Standby);
    replicas.run_for(3.0).await;
    assert_eq!(b.state(), ServiceState::Running);
    assert_eq!(log.times("a cleans up"), [0.0; 0], "it was killed");
}

/// No other replica has taken it: the service is free for any of them, also for this one, and each takeover has a
/// number of its own.
async fn an_expired_lease_is_not_renewed(replicas: Bed) {
    let log = Log::new();
    let a = start(&replicas.bed, "a", &log, 1000.0).await;
    replicas.run_for(5.0).await;
    // By a step of the server's clock: the holder does not know.
    replicas.execute("UPDATE service_lease SET expires_at = 0").await;
    replicas.run_for(15.0).await;
    assert_eq!(a.state(), ServiceState::Running);
    assert_eq!((log.times("a is dropped").len(), log.times("a runs").len()), (1, 2), "{:?}", log.all());
    assert_eq!(replicas.number("SELECT epoch FROM service_epoch").await, 2);
}

async fn a_holder_without_the_database_gives_up_before_another_takes_over(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 1000.0).await;
    let b = start(&other, "b", &log, 1000.0).await;
    replicas.run_for(5.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(40.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Standby, ServiceState::Running));
    let (dropped, runs) = (log.times("a is dropped"), log.times("b runs"));
    // A tenth of the lease is not trusted. Taken at 0, it ends here after 27 s, and in the database after 30 s.
    assert_eq!((&dropped[..], log.times("a is told")), (&[27.0][..], vec![27.0]));
    assert_eq!(log.times("a cleans up"), [27.0]);
    assert!(runs.len() == 1 && (30.0..32.0).contains(&runs[0]), "{:?}", log.all());
    assert_eq!(a.health().status, HealthStatus::Unhealthy);
}

async fn without_the_database_every_replica_stands_by(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    replicas.run_for(5.0).await;
    for bed in [&replicas.bed, &other] {
        replicas.bed.partition(bed);
    }
    replicas.run_for(35.0).await;
    let runs = log.all().len();
    replicas.run_for(600.0).await;
    for service in [&a, &b] {
        let health = service.health();
        assert_eq!((health.state, health.status), (ServiceState::Standby, HealthStatus::Unhealthy));
        assert!(health.reason.as_deref().unwrap().contains("cut off this replica"), "{health:?}");
        assert!(health.running, "{health:?}");
    }
    assert_eq!(log.all().len(), runs);
    for bed in [&replicas.bed, &other] {
        replicas.bed.heal(bed);
    }
    replicas.run_for(15.0).await;
    let states = [a.state(), b.state()];
    assert!(states.contains(&ServiceState::Running) && states.contains(&ServiceState::Standby), "{states:?}");
    assert!(log.all().len() > runs);
}

async fn the_former_holder_stands_by_and_takes_over_again(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    replicas.run_for(5.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(35.0).await;
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(35.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Standby, ServiceState::Running));
    assert_eq!(a.health().status, HealthStatus::Healthy);
    replicas.bed.partition(&other);
    replicas.run_for(35.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    assert_eq!(log.times("a cleans up").len(), 1);
}

async fn a_lost_lease_is_no_failure(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 1000.0).await;
    start(&other, "b", &log, 1000.0).await;
    replicas.run_for(5.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(40.0).await;
    let health = a.health();
    assert_eq!((health.failures, health.error_count, health.last_error), (0, 0, None));
    assert_eq!(health.runs, 1);
}

/// Has a child.
struct Team(Log);

#[service(interval = 10, scope = "cluster", lease = 30, discover = false)]
impl Team {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let services = cx.services();
        if services.get("member").is_none() {
            let this = services.get(cx.service_id()).unwrap();
            services.register("member", Member(self.0.clone())).parent(&this).start().await?;
        }
        Ok(())
    }
}

struct Member(Log);

#[service(discover = false)]
impl Member {
    async fn update(&mut self) {
        struct Dropped(Log);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.add("the child is dropped");
            }
        }
        let _dropped = Dropped(self.0.clone());
        tokio::time::sleep(std::time::Duration::from_secs(1000)).await;
    }
}

async fn a_lost_lease_ends_the_runs_of_children(replicas: Bed) {
    let log = Log::new();
    let team = {
        let log = log.clone();
        replicas.bed.start_fn(move || Team(log.clone())).await
    };
    replicas.run_for(5.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(40.0).await;
    assert_eq!((team.state(), log.times("the child is dropped")), (ServiceState::Standby, vec![27.0]));
}

struct Dependent;

#[service(interval = 10, depends_on = [Worker], discover = false)]
impl Dependent {
    async fn update(&mut self) {}
}

async fn a_service_that_depends_on_a_standby_starts(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    start(&replicas.bed, "a", &log, 0.0).await;
    start(&other, "b", &log, 0.0).await;
    let dependent = other.start_fn(|| Dependent).await;
    replicas.run_for(1.0).await;
    assert_eq!((dependent.state(), dependent.health().runs), (ServiceState::Running, 1));
}

async fn a_replica_that_is_stopped_while_it_stands_by_takes_nothing(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    b.stop().await.unwrap();
    assert_eq!(b.state(), ServiceState::Stopped);
    a.stop().await.unwrap();
    replicas.run_for(60.0).await;
    assert_eq!(log.times("b runs"), [0.0; 0]);
    assert_eq!(log.times("b cleans up"), [0.0; 0], "no instance was built");
}

/// The clock of the server was set back after a service had been handed over to a replica that is gone.
async fn a_hand_over_in_the_future_reserves_nothing(replicas: Bed) {
    let log = Log::new();
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    replicas.run_for(5.0).await;
    a.stop().await.unwrap();
    replicas.execute("UPDATE service_lease SET moved_to = 'gone', moved_at = created_at + 3600000").await;
    a.start().await.unwrap();
    replicas.run_for(5.0).await;
    assert_eq!(a.state(), ServiceState::Running);
}

/// It was killed, and then the server's clock was set back.
async fn a_replica_that_was_seen_in_the_future_is_not_live_and_gets_no_service(replicas: Bed) {
    let log = Log::new();
    for _ in 0..3 {
        start(&replicas.bed, "a", &log, 0.0).await;
    }
    replicas.run_for(5.0).await;
    let stands_by = |id: &str| format!("{{\"service_id\":\"{id}\",\"state\":\"standby\",\"status\":\"healthy\"}}");
    let services = replicas.bed.services().await;
    let standbys: Vec<String> = services.list().iter().map(|id| stands_by(id)).collect();
    let seen = "(SELECT max(created_at) + 3600000 FROM service_lease)";
    let row = format!("'gone', 'web', 1, '1', '2026-01-01T00:00:00Z', {seen}, '[{}]'", standbys.join(","));
    replicas.execute(&format!("INSERT INTO service_replica VALUES ({row})")).await;
    replicas.run_for(180.0).await;
    let all = services.replicas().await.unwrap();
    let gone = all.iter().find(|replica| replica.id == "gone").unwrap();
    assert_eq!((gone.is_live, gone.services.len()), (false, 3), "{gone:?}");
    assert_eq!(replicas.number("SELECT max(epoch) FROM service_lease").await, 1, "none was handed over");
}

/// Its `cleanup` does not end.
struct Stubborn;

#[service(interval = 10, scope = "cluster", lease = 60, discover = false)]
impl Stubborn {
    async fn update(&mut self) {}

    async fn cleanup(&mut self) {
        std::future::pending().await
    }
}

async fn a_shutdown_releases_the_lease_also_if_cleanup_does_not_end(replicas: Bed) {
    let other = replicas.other().await;
    let a = replicas.bed.start_fn(|| Stubborn).await;
    let b = other.start_fn(|| Stubborn).await;
    replicas.run_for(5.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    let services = replicas.bed.services().await;
    let shutdown = tokio::spawn(async move { services.shutdown().await });
    // `shutdown_timeout` is 25 s.
    other.run_for(std::time::Duration::from_secs(27)).await;
    assert_eq!(b.state(), ServiceState::Running);
    assert!(shutdown.await.unwrap().is_ok());
}

async fn a_shutdown_during_a_hand_over_releases_the_lease_also_if_cleanup_does_not_end(replicas: Bed) {
    let other = replicas.other().await;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        here.push(replicas.bed.start_fn(|| Stubborn).await);
    }
    replicas.run_for(5.0).await;
    for _ in 0..2 {
        there.push(other.start_fn(|| Stubborn).await);
    }
    let mut moved = None;
    for _ in 0..1200 {
        replicas.run_for(0.1).await;
        moved = here.iter().position(|service| service.state() == ServiceState::Standby);
        if moved.is_some() {
            break;
        }
    }
    let moved = moved.expect("one of the two is handed over");
    let services = replicas.bed.services().await;
    let shutdown = tokio::spawn(async move { services.shutdown().await });
    // `shutdown_timeout` is 25 s, less than `drain_timeout`, and the lease lasts 60 s.
    other.run_for(Duration::from_secs(27)).await;
    assert_eq!(there[moved].state(), ServiceState::Running);
    assert!(shutdown.await.unwrap().is_ok());
}

async fn a_clock_that_was_set_back_is_named(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&other, "a", &log, 0.0).await;
    let b = start(&replicas.bed, "b", &log, 0.0).await;
    replicas.run_for(5.0).await;
    assert_eq!(a.state(), ServiceState::Running);
    replicas.bed.kill(other).await;
    replicas.execute("UPDATE service_lease SET expires_at = expires_at + 3600000").await;
    replicas.run_for(20.0).await;
    let reason = b.health().reason.unwrap();
    assert!(reason.contains("the clock of the database was set back") && reason.contains("valid for "), "{reason}");
}

/// A host without power does not end its connections: the server has to.
#[tokio::test(start_paused = true)]
async fn on_postgresql_the_registry_does_nothing_in_a_transaction_for_5_s_at_most() {
    let Some(replicas) = Bed::postgres_with("&options=-c default_transaction_isolation=serializable").await else {
        return;
    };
    let (log, other) = (Log::new(), replicas.other().await);
    start(&replicas.bed, "a", &log, 0.0).await;
    replicas.execute("CREATE TABLE seen (name TEXT NOT NULL, level TEXT NOT NULL, setting TEXT NOT NULL)").await;
    replicas
        .execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('transaction_isolation'), \
                                      current_setting('idle_in_transaction_session_timeout')); \
             RETURN NULL; END $$",
        )
        .await;
    for table in ["service_lease", "service_epoch", "service_replica", "service_request"] {
        let trigger = "AFTER INSERT OR UPDATE OR DELETE ON";
        let each = "FOR EACH ROW EXECUTE FUNCTION note()";
        replicas.execute(&format!("CREATE TRIGGER note {trigger} {table} {each}")).await;
    }
    let b = start(&other, "b", &log, 0.0).await;
    replicas.run_for(100.0).await;
    b.run_now().await.unwrap();
    replicas.bed.services().await.shutdown().await.unwrap();
    other.run_for(std::time::Duration::from_secs(5)).await;
    assert_eq!(b.state(), ServiceState::Running);
    assert_eq!(replicas.number("SELECT count(DISTINCT name) FROM seen WHERE level = 'read committed'").await, 4);
    let others = "SELECT count(*) FROM seen WHERE level <> 'read committed' OR setting <> '5s'";
    assert_eq!(replicas.number(others).await, 0);
    assert!(replicas.number("SELECT count(*) FROM seen WHERE name = 'service_lease'").await > 3, "renewals");
}

#[tokio::test(start_paused = true)]
async fn without_a_database_the_error_says_what_to_add() {
    let refused = ServiceRegistry::builder().without_discovered().service_fn("worker", || Dependent);
    let refused = refused.options_of("worker", ServiceOptions::new().scope(service_core::ServiceScope::Cluster));
    let refused = refused.options_of("worker", ServiceOptions::new().depends_on([""; 0])).build().await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("`scope = \"cluster\"`") && error.contains(".database_url("), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_ready_made_instance_is_refused() {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    let worker = Worker { name: "a", log: Log::new(), works: std::time::Duration::ZERO };
    let refused = ServiceRegistry::builder().without_discovered().database(db).service("worker", worker).build().await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("`service_fn`"), "{error}");
}

/// The first instance cannot be built.
struct Gate;

#[service(retry_delay = 5, discover = false)]
impl Gate {
    async fn configure(cx: &Context) -> Result<Self> {
        if cx.db()?.query_one_raw(count_of_gates(cx.db()?)).await?.is_some() {
            Ok(Self)
        } else {
            Err(Error::msg("closed"))
        }
    }

    async fn update(&mut self) {}
}

fn count_of_gates(db: &DatabaseConnection) -> Statement {
    Statement::from_string(db.get_database_backend(), "SELECT 1 AS one FROM gate LIMIT 1")
}

async fn a_replica_stands_by_although_its_dependency_failed_at_first(replicas: Bed) {
    replicas.execute("CREATE TABLE gate (id INTEGER)").await;
    let (log, other) = (Log::new(), replicas.other().await.set("worker.depends_on", ["gate"]));
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let gate = other.start_of::<Gate>().await;
    let b = start(&other, "b", &log, 0.0).await;
    replicas.run_for(1.0).await;
    assert_eq!((gate.state(), b.state()), (ServiceState::BackingOff, ServiceState::Starting));
    replicas.execute("INSERT INTO gate VALUES (1)").await;
    replicas.run_for(20.0).await;
    assert_eq!((gate.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    assert_eq!((a.state(), b.health().status), (ServiceState::Running, HealthStatus::Healthy));
}

async fn time_moves_while_an_override_expires_on_a_replica_that_is_cut_off(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    // The bed's wall clock begins with 2026.
    let until = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:01:00Z").unwrap().to_utc();
    set_override(&replicas.db, &Override::new("worker", "interval", 20).until(until)).await.unwrap();
    replicas.run_for(10.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(120.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Standby, ServiceState::Running));
    replicas.bed.heal(&replicas.bed);
    replicas.bed.partition(&other);
    replicas.run_for(120.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
}

async fn a_replica_on_standby_has_no_instance_for_other_services(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let _a = start(&replicas.bed, "a", &log, 0.0).await;
    let b = start(&other, "b", &log, 0.0).await;
    let refused = other.services().await.register("child", Gate).parent(&b).await.unwrap_err().to_string();
    assert!(refused.contains("another replica runs it"), "{refused}");
}

/// Holds the claim of its row until the run is dropped, the first time.
struct Claiming(Log);

#[service(interval = 10, scope = "cluster", lease = 30, discover = false)]
impl Claiming {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let log = &self.0;
        let jobs = cx.claim_each::<job::Entity>(10);
        jobs.for_each(async |_: &Item<job::Entity>| {
            log.add("an item begins");
            if log.times("an item begins").len() == 1 {
                std::future::pending::<()>().await;
            }
        })
        .await
    }
}

/// While the database is away, the claims cannot be released. They expire in the meantime, and would count as a crash.
async fn claims_of_a_lost_lease_are_released_when_the_database_is_back(replicas: Bed) {
    jobs(&replicas.db, 3).await;
    let log = Log::new();
    let service = {
        let log = log.clone();
        replicas.bed.start_fn(move || Claiming(log.clone())).await
    };
    replicas.run_for(5.0).await;
    assert_eq!(replicas.number("SELECT count(*) FROM service_claim").await, 3);
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(100.0).await;
    assert_eq!((service.state(), log.times("an item begins").len()), (ServiceState::Standby, 1));
    // What `service_claim` records of a row is deleted when the row is settled.
    replicas.execute("UPDATE job SET status = 'held'").await;
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(60.0).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(replicas.number("SELECT count(*) FROM service_claim").await, 0);
    replicas.execute("UPDATE job SET status = 'pending'").await;
    replicas.run_for(30.0).await;
    assert_eq!(replicas.number("SELECT count(*) FROM job WHERE status = 'completed' AND attempts = 1").await, 3);
    assert_eq!(service.health().error_count, 0);
}

/// Fails 20 s after it has claimed rows.
#[derive(Default)]
struct Failing;

#[service(interval = 10, retry_delay = "1h", max_retry_delay = "1h", discover = false)]
impl Failing {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let batch = cx.claim_each::<job::Entity>(10).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        drop(batch);
        Err(Error::msg("the run has failed"))
    }
}

/// No run has released them since the database is back.
async fn a_stop_after_an_outage_releases_the_claims_of_the_last_run(replicas: Bed) {
    jobs(&replicas.db, 3).await;
    let service = replicas.bed.start_of::<Failing>().await;
    replicas.run_for(10.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(15.0).await;
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(10.0).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    assert_eq!(replicas.number("SELECT count(*) FROM service_claim").await, 3);
    service.stop().await.unwrap();
    assert_eq!(replicas.number("SELECT count(*) FROM service_claim").await, 0);
}
