//! What any replica shows of all of them, and what it requests from the one that runs a service.

use std::time::Duration;

use sea_orm::DbBackend;
use service_core::database::{Override, migrate, set_override};
use service_core::prelude::*;
use service_core::testing::TestBed;
use service_core::{Explanation, HealthStatus};

use super::{Log, Worker};
use crate::bed::{Bed, on_each};

on_each! {
    any_replica_shows_all_of_them,
    explain_shows_the_holder_and_all_replicas,
    explain_on_a_replica_that_does_not_wait_for_the_lease_shows_the_holder,
    explain_of_a_service_that_runs_on_every_replica_shows_no_lease,
    a_run_that_is_requested_on_a_standby_is_made_by_the_holder,
    the_error_of_such_a_run_is_in_its_report,
    a_run_of_a_service_with_run_is_refused_on_a_standby_as_on_the_holder,
    a_standby_forwards_wake_ups_to_the_holder,
    a_commit_on_a_standby_wakes_the_holder,
    a_wake_up_that_the_holder_has_served_is_over_for_the_standby,
    a_request_waits_for_the_next_holder,
    a_request_that_no_replica_takes_is_void_after_a_minute,
    a_single_run_takes_the_lease_or_names_the_holder,
    a_single_run_leaves_no_row,
    a_single_run_that_loses_its_lease_is_not_repeated,
    a_single_run_of_a_paused_service_that_loses_its_lease_ends,
    a_replica_on_which_the_service_is_stopped_reaches_the_holder,
    a_replica_that_shuts_down_leaves_no_lease_and_no_row,
    a_wake_up_whose_request_cannot_be_removed_is_one_run,
    a_replica_is_seen_although_old_rows_cannot_be_removed,
}

struct OnDemand {
    name: &'static str,
    log: Log,
}

#[service(on_demand = true, wake_on = ["orders"], scope = "cluster", lease = 30, discover = false)]
impl OnDemand {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.log.add(format!("{} runs", self.name));
        if cx.run_number().is_multiple_of(2) {
            return Err(Error::msg("every second run fails"));
        }
        Ok(Outcome::processed(7).failed(2))
    }
}

async fn start(bed: &TestBed, name: &'static str, log: &Log) -> ServiceHandle {
    let log = log.clone();
    bed.start_fn(move || OnDemand { name, log: log.clone() }).await
}

/// Two replicas. The first runs once at its start, because programs may have notified it before.
async fn two(replicas: &Bed) -> (Log, TestBed, ServiceHandle, ServiceHandle) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log).await;
    let b = start(&other, "b", &log).await;
    replicas.run_for(2.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 0));
    (log, other, a, b)
}

async fn any_replica_shows_all_of_them(replicas: Bed) {
    let (_log, other, _a, _b) = two(&replicas).await;
    replicas.run_for(61.0).await;
    for bed in [&replicas.bed, &other] {
        let all = bed.services().await.replicas().await.unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.iter().all(|replica| replica.is_live && replica.pid == std::process::id()), "{all:?}");
        assert_eq!(all.iter().filter(|replica| replica.is_this).count(), 1);
        let services: Vec<_> = all.iter().map(|replica| replica.service("on_demand").unwrap()).collect();
        let holder = services.iter().find(|service| service.state == ServiceState::Running).unwrap();
        let standby = services.iter().find(|service| service.state == ServiceState::Standby).unwrap();
        assert_eq!((holder.lease_epoch, standby.lease_epoch), (Some(1), None));
        assert!(standby.reason.as_deref().unwrap().starts_with("standby: held by "), "{standby:?}");
    }
}

async fn explain_shows_the_holder_and_all_replicas(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log).await;
    let alone = a.explain();
    assert_eq!(alone.replicas.len(), 1, "{alone}");
    assert!(alone.replicas[0].is_this && alone.replicas[0].is_live, "{alone}");
    let b = start(&other, "b", &log).await;
    // The second reading of the rows has what each replica wrote at the first.
    replicas.run_for(125.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    let process = format!("(pid {})", std::process::id());
    for (service, is_holder) in [(&a, true), (&b, false)] {
        let explained = service.explain();
        let lease = explained.lease.as_ref().unwrap();
        assert_eq!((lease.is_this, lease.epoch), (is_holder, Some(1)), "{explained}");
        assert!(lease.holder.as_deref().unwrap().ends_with(&process), "{explained}");
        let own = lease.description == "held by this replica, epoch 1";
        assert_eq!(own, is_holder, "{explained}");
        assert!(own || lease.description.contains(&format!("{process}, epoch 1, renewed ")), "{explained}");
        assert_eq!(explained.replicas.len(), 2, "{explained}");
        for replica in &explained.replicas {
            let runs_it = replica.is_this == is_holder;
            let state = if runs_it { ServiceState::Running } else { ServiceState::Standby };
            assert_eq!((replica.state, replica.status), (state, HealthStatus::Healthy), "{explained}");
            assert_eq!((replica.lease_epoch, replica.is_live), (runs_it.then_some(1), true), "{explained}");
            assert!(replica.label.ends_with(&process), "{explained}");
        }
        assert_eq!(explained.replicas.iter().filter(|replica| replica.is_this).count(), 1, "{explained}");
        let text = explained.to_string();
        for line in ["running, healthy, epoch 1", "standby, healthy"] {
            let shown = text.lines().filter(|shown| shown.starts_with("  replica ") && shown.ends_with(line));
            assert_eq!(shown.count(), 1, "{line}: {text}");
        }
        assert!(text.lines().any(|line| line.starts_with("  lease ") && line.contains("epoch 1")), "{text}");
        let json = serde_json::to_string(&explained).unwrap();
        let read: Explanation = serde_json::from_str(&json).unwrap();
        assert_eq!((read.lease, read.replicas), (explained.lease, explained.replicas), "{json}");
    }
}

async fn explain_on_a_replica_that_does_not_wait_for_the_lease_shows_the_holder(replicas: Bed) {
    let (_log, _other, _a, b) = two(&replicas).await;
    b.stop().await.unwrap();
    replicas.run_for(125.0).await;
    let explained = b.explain();
    let lease = explained.lease.as_ref().unwrap();
    assert_eq!((lease.is_this, lease.epoch, lease.holder.is_some()), (false, Some(1), true), "{explained}");
    assert!(explained.replicas.iter().any(|replica| replica.is_this && replica.state == ServiceState::Stopped));
}

async fn explain_of_a_service_that_runs_on_every_replica_shows_no_lease(replicas: Bed) {
    let shop = replicas.bed.start_fn(|| Shop).await;
    let json = serde_json::to_value(shop.explain()).unwrap();
    assert!(json.get("lease").is_none() && json.get("replicas").is_none(), "{json}");
    let text = shop.explain().to_string();
    assert!(!text.contains("held by") && !text.contains("  replica "), "{text}");
}

async fn a_run_that_is_requested_on_a_standby_is_made_by_the_holder(replicas: Bed) {
    let (log, _other, _a, b) = two(&replicas).await;
    // The second run fails.
    assert!(b.run_now().await.unwrap().error().is_some());
    replicas.run_for(30.0).await;
    let before = log.times("a runs").len();
    let mut report = b.run_now().await.unwrap();
    if report.error().is_some() {
        report = b.run_now().await.unwrap();
    }
    assert_eq!((report.processed(), report.failed(), report.again()), (7, 2, false));
    assert!(log.times("a runs").len() > before && log.times("b runs").is_empty(), "{:?}", log.all());
}

async fn the_error_of_such_a_run_is_in_its_report(replicas: Bed) {
    let (_log, _other, _a, b) = two(&replicas).await;
    let report = b.run_now().await.unwrap();
    assert_eq!(report.error().unwrap().to_string(), "every second run fails");
}

/// Runs until it is stopped.
#[derive(Default)]
struct Feed;

#[service(scope = "cluster", lease = 30, discover = false)]
impl Feed {
    async fn run(&mut self, cx: &Context) {
        cx.stopping().await;
    }
}

async fn a_run_of_a_service_with_run_is_refused_on_a_standby_as_on_the_holder(replicas: Bed) {
    let other = replicas.other().await;
    let a = replicas.bed.start_of::<Feed>().await;
    let b = other.start_of::<Feed>().await;
    replicas.run_for(2.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    let [here, there] = [a.run_now().await.unwrap_err(), b.run_now().await.unwrap_err()];
    assert!(there.find::<service_core::StateError>().is_some(), "{there:?}");
    assert_eq!(here.to_string(), there.to_string());
    assert_eq!(replicas.number("SELECT count(*) FROM service_request").await, 0);
}

async fn a_standby_forwards_wake_ups_to_the_holder(replicas: Bed) {
    let (log, other, _a, b) = two(&replicas).await;
    b.wake();
    replicas.run_for(3.0).await;
    assert_eq!(log.times("a runs").len(), 2);
    replicas.run_for(30.0).await;
    let before = log.times("a runs").len();
    other.services().await.notify("orders");
    replicas.run_for(3.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (before + 1, 0));
}

/// Places an order.
struct Shop;

#[service(discover = false)]
impl Shop {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        tx.notify("orders");
        tx.commit().await
    }
}

async fn a_commit_on_a_standby_wakes_the_holder(replicas: Bed) {
    let (log, other, _a, _b) = two(&replicas).await;
    replicas.run_for(30.0).await;
    let before = log.times("a runs").len();
    assert!(other.update(&mut Shop).await.error().is_none());
    replicas.run_for(3.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (before + 1, 0));
}

/// Has no topic, so a takeover alone makes no run due.
struct Hourly(Log, &'static str);

#[service(interval = 3600, scope = "cluster", lease = 30, discover = false)]
impl Hourly {
    async fn update(&mut self) {
        self.0.add(self.1);
    }
}

async fn a_wake_up_that_the_holder_has_served_is_over_for_the_standby(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let start = async |bed: &TestBed, name| {
        let log = log.clone();
        bed.start_fn(move || Hourly(log.clone(), name)).await
    };
    let a = start(&replicas.bed, "a").await;
    let b = start(&other, "b").await;
    replicas.run_for(2.0).await;
    b.wake();
    replicas.run_for(10.0).await;
    assert_eq!(log.times("a").len(), 2);
    a.stop().await.unwrap();
    replicas.run_for(60.0).await;
    assert_eq!((b.state(), log.times("b").len()), (ServiceState::Running, 0));
}

/// Requests a run of the second replica while the first is cut off. Returns how it ends.
async fn request_without_a_holder(replicas: Bed, later: impl FnOnce(&ServiceHandle)) -> (Log, Result<RunReport>) {
    let (log, other, _a, b) = two(&replicas).await;
    other.partition(&replicas.bed);
    let requested = {
        let b = b.clone();
        tokio::spawn(async move { b.run_now().await })
    };
    other.run_for(Duration::from_secs(5)).await;
    later(&b);
    other.run_for(Duration::from_secs(100)).await;
    (log, requested.await.unwrap())
}

async fn a_request_waits_for_the_next_holder(replicas: Bed) {
    let (log, report) = request_without_a_holder(replicas, |_| {}).await;
    // The replica itself takes over, and carries it out.
    assert!(report.is_ok(), "{report:?}");
    assert!(!log.times("b runs").is_empty());
}

async fn a_request_that_no_replica_takes_is_void_after_a_minute(replicas: Bed) {
    let stop = |b: &ServiceHandle| {
        let b = b.clone();
        tokio::spawn(async move { b.stop().await });
    };
    let (_log, report) = request_without_a_holder(replicas, stop).await;
    let error = report.unwrap_err().to_string();
    assert!(error.contains("no replica has taken the request"), "{error}");
}

async fn a_single_run_takes_the_lease_or_names_the_holder(replicas: Bed) {
    let (log, other, a, b) = two(&replicas).await;
    b.stop().await.unwrap();
    let services = other.services().await;
    let refused = services.run_once("on_demand").await.unwrap_err().to_string();
    assert!(refused.contains("its lease is held by ") && refused.contains("epoch 1"), "{refused}");
    assert_eq!(b.health().status, HealthStatus::Healthy, "{:?}", b.health().reason);
    a.stop().await.unwrap();
    let report = services.run_once("on_demand").await.unwrap();
    assert!(report.error().is_none(), "{report:?}");
    assert_eq!(log.times("b runs").len(), 1);
    // The lease is free again.
    a.start().await.unwrap();
    replicas.run_for(1.0).await;
    assert_ne!(a.state(), ServiceState::Standby);
}

async fn a_replica_that_shuts_down_leaves_no_lease_and_no_row(replicas: Bed) {
    let (_log, other, _a, b) = two(&replicas).await;
    let services = replicas.bed.services().await;
    services.shutdown().await.unwrap();
    other.run_for(Duration::from_secs(1)).await;
    assert_eq!(b.state(), ServiceState::Running);
    assert_eq!(other.services().await.replicas().await.unwrap().len(), 1);
}

/// A program that makes one run and ends, again and again, would leave as many rows.
async fn a_single_run_leaves_no_row(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let services = other.services().await;
    let build = {
        let log = log.clone();
        move || OnDemand { name: "b", log: log.clone() }
    };
    services.register_fn("on_demand", build).await.unwrap();
    assert!(services.run_once("on_demand").await.unwrap().error().is_none());
    replicas.run_for(61.0).await;
    let rows = async || replicas.number("SELECT count(*) FROM service_replica").await;
    assert_eq!((log.times("b runs").len(), rows().await), (1, 0));
    // A start shows the replica.
    services.get("on_demand").unwrap().start().await.unwrap();
    replicas.run_for(2.0).await;
    assert_eq!(rows().await, 1);
}

/// The lease of a single run expires, and is free again. Returns what happened, and how the call ended.
async fn single_run_without_a_lease(replicas: &Bed) -> (Log, Result<RunReport>) {
    let (log, services) = (Log::new(), replicas.bed.services().await);
    let build = {
        let log = log.clone();
        move || Worker { name: "a", log: log.clone(), works: Duration::from_secs(1000) }
    };
    services.register_fn("worker", build).await.unwrap();
    let single = tokio::spawn(async move { services.run_once("worker").await });
    replicas.run_for(5.0).await;
    assert_eq!(log.times("a runs").len(), 1);
    replicas.execute("UPDATE service_lease SET expires_at = 0").await;
    replicas.run_for(60.0).await;
    assert!(single.is_finished(), "{:?}", log.all());
    (log, single.await.unwrap())
}

async fn a_single_run_that_loses_its_lease_is_not_repeated(replicas: Bed) {
    let (log, ended) = single_run_without_a_lease(&replicas).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("`worker` lost its lease before its single run had ended"), "{error}");
    assert_eq!((log.times("a runs").len(), log.times("a cleans up").len()), (1, 1), "{:?}", log.all());
    let worker = replicas.bed.services().await.get("worker").unwrap();
    assert_eq!((worker.state(), worker.health().status), (ServiceState::Stopped, HealthStatus::Healthy));
}

async fn a_single_run_of_a_paused_service_that_loses_its_lease_ends(replicas: Bed) {
    migrate(&replicas.db).await.unwrap();
    set_override(&replicas.db, &Override::new("worker", "paused", true)).await.unwrap();
    let (log, ended) = single_run_without_a_lease(&replicas).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(log.times("a runs").len(), 1, "{:?}", log.all());
}

async fn a_replica_on_which_the_service_is_stopped_reaches_the_holder(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    b.stop().await.unwrap();
    replicas.run_for(2.0).await;
    let report = b.run_now().await.unwrap();
    assert_eq!(report.error().unwrap().to_string(), "every second run fails");
    replicas.run_for(30.0).await;
    let before = log.times("a runs").len();
    b.wake();
    replicas.run_for(3.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (before + 1, 0), "{:?}", log.all());
    // Without a holder, the call is refused at once.
    a.stop().await.unwrap();
    let refused = b.run_now().await.unwrap_err().to_string();
    assert!(refused.contains("it is stopped"), "{refused}");
}

/// Refuses to delete rows of a table.
async fn refuse_deletions(replicas: &Bed, table: &str) {
    let sql = match replicas.db.get_database_backend() {
        DbBackend::Postgres => format!(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$; \
             CREATE TRIGGER keep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
        ),
        _ => format!("CREATE TRIGGER keep BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'kept'); END"),
    };
    replicas.execute(&sql).await;
}

async fn a_wake_up_whose_request_cannot_be_removed_is_one_run(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    refuse_deletions(&replicas, "service_request").await;
    b.wake();
    replicas.run_for(130.0).await;
    // Every second run fails, and is retried.
    assert_eq!((a.health().runs, log.times("b runs").len()), (3, 0), "{:?}", log.all());
    // Another one counts again.
    b.wake();
    replicas.run_for(130.0).await;
    assert_eq!(a.health().runs, 5, "{:?}", log.all());
}

async fn a_replica_is_seen_although_old_rows_cannot_be_removed(replicas: Bed) {
    let (_log, other, _a, _b) = two(&replicas).await;
    refuse_deletions(&replicas, "service_replica").await;
    replicas
        .execute(
            "INSERT INTO service_replica (id, host, pid, version, started_at, seen_at, services) \
             VALUES ('gone', 'old', 1, '0', '2020-01-01T00:00:00Z', -10000000, '[]')",
        )
        .await;
    replicas.run_for(600.0).await;
    let live = other.services().await.replicas().await.unwrap().into_iter().filter(|replica| replica.is_live).count();
    assert_eq!(live, 2);
}
