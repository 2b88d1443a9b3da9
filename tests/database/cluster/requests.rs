//! Requests to a replica that does not run the service any more, or not yet: the next holder carries them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use service_core::database::Item;
use service_core::prelude::*;
use service_core::testing::TestBed;

use super::Log;
use crate::bed::{Bed, on_each};
use crate::tables::{job, jobs};

on_each! {
    a_wake_up_that_arrived_in_the_last_run_of_a_holder_is_served_by_the_next,
    a_wake_up_during_the_stop_of_the_holder_is_served_by_the_next,
    a_run_that_is_requested_during_the_stop_of_the_holder_is_made_by_the_next,
    a_run_that_was_requested_before_the_holder_stops_is_made_by_the_next,
    a_run_that_was_requested_before_the_only_holder_stops_is_an_error,
    requests_during_a_single_run_wait_for_the_next_holder,
    requests_while_a_service_is_handed_over_are_carried_out_by_the_next_holder,
    a_shutdown_passes_a_wake_up_on,
    a_wake_up_whose_run_is_aborted_by_the_stop_is_served_by_the_next,
    a_wake_up_whose_run_has_failed_before_the_stop_is_served_by_the_next,
    a_wake_up_of_a_replica_that_starts_reaches_the_holder,
    a_replica_on_standby_that_stops_makes_no_run_of_a_notification,
    the_report_of_a_run_that_ends_in_an_outage_arrives_later,
    after_a_lost_lease_the_end_of_an_outage_makes_a_run_due_on_the_next_holder,
    after_a_stop_the_end_of_an_outage_makes_a_run_due_on_the_next_holder,
    failed_rows_without_an_outage_make_no_run_due_on_the_next_holder,
    many_wake_ups_are_few_requests,
    an_old_request_whose_answer_was_lost_is_not_carried_out,
}

/// Has no topic, so a takeover alone makes no run due.
struct Report {
    name: &'static str,
    log: Log,
    works: Duration,
}

#[service(on_demand = true, scope = "cluster", lease = 30, discover = false)]
impl Report {
    async fn update(&mut self) {
        self.log.add(format!("{} runs", self.name));
        tokio::time::sleep(self.works).await;
    }

    async fn cleanup(&mut self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn start(bed: &TestBed, name: &'static str, log: &Log) -> ServiceHandle {
    start_long(bed, name, log, 20).await
}

async fn start_long(bed: &TestBed, name: &'static str, log: &Log, works: u64) -> ServiceHandle {
    let (log, works) = (log.clone(), Duration::from_secs(works));
    bed.start_fn(move || Report { name, log: log.clone(), works }).await
}

/// Two replicas. The first one has begun a run.
async fn two(replicas: &Bed) -> (Log, TestBed, ServiceHandle, ServiceHandle) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log).await;
    let b = start(&other, "b", &log).await;
    a.wake();
    replicas.run_for(5.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    assert_eq!(log.times("a runs").len(), 1);
    (log, other, a, b)
}

fn stop(service: &ServiceHandle) {
    let service = service.clone();
    tokio::spawn(async move { service.stop().await });
}

async fn a_wake_up_that_arrived_in_the_last_run_of_a_holder_is_served_by_the_next(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    b.wake();
    replicas.run_for(5.0).await;
    stop(&a);
    replicas.run_for(60.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Stopped, ServiceState::Running));
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn a_wake_up_during_the_stop_of_the_holder_is_served_by_the_next(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    stop(&a);
    replicas.run_for(5.0).await;
    assert_eq!(a.state(), ServiceState::Draining);
    b.wake();
    replicas.run_for(60.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn a_run_that_is_requested_during_the_stop_of_the_holder_is_made_by_the_next(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    stop(&a);
    replicas.run_for(5.0).await;
    let requested = {
        let b = b.clone();
        tokio::spawn(async move { b.run_now().await })
    };
    replicas.run_for(60.0).await;
    let report = requested.await.unwrap().unwrap();
    assert!(report.error().is_none(), "{report:?}");
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

/// The holder has taken the request, and stops before that run begins.
async fn request_before_the_stop(replicas: &Bed, is_last: bool) -> (Log, Result<RunReport>) {
    let (log, _other, a, b) = two(replicas).await;
    let requested = {
        let b = b.clone();
        tokio::spawn(async move { b.run_now().await })
    };
    replicas.run_for(5.0).await;
    assert_eq!(replicas.number("SELECT count(*) FROM service_request WHERE taken_by IS NOT NULL").await, 1);
    stop(&a);
    if is_last {
        stop(&b);
    }
    replicas.run_for(120.0).await;
    (log, requested.await.unwrap())
}

async fn a_run_that_was_requested_before_the_holder_stops_is_made_by_the_next(replicas: Bed) {
    let (log, report) = request_before_the_stop(&replicas, false).await;
    let report = report.unwrap();
    assert!(report.error().is_none(), "{report:?}");
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn a_run_that_was_requested_before_the_only_holder_stops_is_an_error(replicas: Bed) {
    let (log, report) = request_before_the_stop(&replicas, true).await;
    let error = report.unwrap_err().to_string();
    assert!(error.contains("no replica has taken the request"), "{error}");
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 0), "{:?}", log.all());
}

async fn requests_during_a_single_run_wait_for_the_next_holder(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start(&replicas.bed, "a", &log).await;
    a.stop().await.unwrap();
    let services = replicas.bed.services().await;
    let single = tokio::spawn(async move { services.run_once("report").await });
    replicas.run_for(2.0).await;
    let b = start(&other, "b", &log).await;
    assert_eq!((log.times("a runs").len(), b.state()), (1, ServiceState::Standby));
    b.wake();
    replicas.run_for(60.0).await;
    assert!(single.await.unwrap().unwrap().error().is_none());
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn requests_while_a_service_is_handed_over_are_carried_out_by_the_next_holder(replicas: Bed) {
    let (log, mut here) = (Log::new(), Vec::new());
    for _ in 0..2 {
        here.push(start(&replicas.bed, "a", &log).await);
    }
    // An instance is built, and cleaned up when it is handed over.
    here.iter().for_each(ServiceHandle::wake);
    replicas.run_for(30.0).await;
    let (before, other) = (log.times("a runs").len(), replicas.other().await);
    for _ in 0..2 {
        start(&other, "b", &log).await;
    }
    let mut moved = None;
    for _ in 0..3000 {
        replicas.run_for(0.1).await;
        moved = here.iter().find(|service| service.state() == ServiceState::Standby);
        if moved.is_some() {
            break;
        }
    }
    let moved = moved.expect("one of the two is handed over").clone();
    assert_eq!(moved.health().status, HealthStatus::Healthy, "{:?}", moved.health());
    let requested = {
        let moved = moved.clone();
        tokio::spawn(async move { moved.run_now().await })
    };
    for _ in 0..600 {
        replicas.run_for(0.1).await;
        assert_eq!(moved.health().status, HealthStatus::Healthy, "{:?}", moved.health());
    }
    let report = requested.await.unwrap().unwrap();
    assert!(report.error().is_none(), "{report:?}");
    assert_eq!((before, log.times("a runs").len(), log.times("b runs").len()), (2, 2, 1), "{:?}", log.all());
}

async fn a_shutdown_passes_a_wake_up_on(replicas: Bed) {
    let (log, other, a, b) = two(&replicas).await;
    // In the process itself, while the run is in flight.
    a.wake();
    let services = replicas.bed.services().await;
    tokio::spawn(async move { services.shutdown().await });
    other.run_for(Duration::from_secs(60)).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Stopped, ServiceState::Running));
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn a_wake_up_whose_run_is_aborted_by_the_stop_is_served_by_the_next(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let a = start_long(&replicas.bed, "a", &log, 1000).await;
    let b = start(&other, "b", &log).await;
    a.wake();
    replicas.run_for(5.0).await;
    assert_eq!(log.times("a runs").len(), 1);
    stop(&a);
    replicas.run_for(60.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Stopped, ServiceState::Running));
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

/// Fails while it is the first replica.
struct Picky {
    name: &'static str,
    log: Log,
}

#[service(on_demand = true, scope = "cluster", lease = 30, retry_delay = "1h", discover = false)]
impl Picky {
    async fn update(&mut self) -> Result<()> {
        self.log.add(format!("{} runs", self.name));
        if self.name == "a" { Err(Error::msg("scripted")) } else { Ok(()) }
    }
}

async fn a_wake_up_whose_run_has_failed_before_the_stop_is_served_by_the_next(replicas: Bed) {
    let (log, other) = (Log::new(), replicas.other().await);
    let start = async |bed: &TestBed, name| {
        let log = log.clone();
        bed.start_fn(move || Picky { name, log: log.clone() }).await
    };
    let (a, b) = (start(&replicas.bed, "a").await, start(&other, "b").await);
    a.wake();
    replicas.run_for(5.0).await;
    assert_eq!(a.state(), ServiceState::BackingOff);
    stop(&a);
    replicas.run_for(60.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
    // It was served once, so the next stop passes nothing on.
    a.start().await.unwrap();
    stop(&b);
    replicas.run_for(60.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
}

async fn the_report_of_a_run_that_ends_in_an_outage_arrives_later(replicas: Bed) {
    let (log, _other, a, b) = two(&replicas).await;
    let requested = tokio::spawn(async move { b.run_now().await });
    // The requested run begins at 20 s and ends at 40 s.
    replicas.run_for(31.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(8.0).await;
    assert_eq!((log.times("a runs"), a.state()), (vec![0.0, 20.0], ServiceState::Running));
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(10.0).await;
    let report = requested.await.unwrap().unwrap();
    assert_eq!((report.error().is_none(), report.duration()), (true, Duration::from_secs(20)));
}

#[tokio::test(start_paused = true)]
async fn the_report_of_a_run_of_more_than_an_hour_arrives() {
    let replicas = Bed::memory().await.unwrap();
    let (log, other) = (Log::new(), replicas.other().await);
    start_long(&replicas.bed, "a", &log, 3700).await;
    let b = start_long(&other, "b", &log, 3700).await;
    replicas.run_for(2.0).await;
    let requested = tokio::spawn(async move { b.run_now().await });
    replicas.run_for(3720.0).await;
    let report = requested.await.unwrap().unwrap();
    assert_eq!((report.error().is_none(), report.duration()), (true, Duration::from_secs(3700)));
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 0));
}

/// Sends each row to an API, which may be away.
struct Sender {
    name: &'static str,
    log: Log,
    fails: Arc<AtomicBool>,
}

#[service(interval = "1h", needs = ["api"], scope = "cluster", lease = 30, discover = false)]
impl Sender {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        self.log.add(format!("{} runs", self.name));
        let send = async |_: &Item<job::Entity>| match self.fails.load(Ordering::SeqCst) {
            true => Err(Error::msg("connection refused")),
            false => Ok(()),
        };
        cx.claim_each::<job::Entity>(10).for_each(send).await
    }
}

/// Two replicas. The rows of the first run on the first one have failed. If the API `is_away`, each replica knows that.
async fn two_senders(mut replicas: Bed, is_away: bool) -> (Log, Bed, TestBed, Arc<AtomicBool>, [ServiceHandle; 2]) {
    jobs(&replicas.db, 3).await;
    let (log, fails) = (Log::new(), Arc::new(AtomicBool::new(true)));
    let probed = |bed: TestBed| {
        let fails = fails.clone();
        bed.with(move |builder| {
            builder.probe("api", Duration::from_secs(10), async move || match is_away && fails.load(Ordering::SeqCst) {
                true => Err("connection refused"),
                false => Ok(()),
            })
        })
    };
    let other = probed(replicas.other().await);
    replicas.bed = probed(replicas.bed);
    let start = async |bed: &TestBed, name| {
        let (log, fails) = (log.clone(), fails.clone());
        bed.start_fn(move || Sender { name, log: log.clone(), fails: fails.clone() }).await
    };
    let services = [start(&replicas.bed, "a").await, start(&other, "b").await];
    replicas.run_for(30.0).await;
    assert_eq!(services.each_ref().map(ServiceHandle::state), [ServiceState::Running, ServiceState::Standby]);
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 0), "{:?}", log.all());
    (log, replicas, other, fails, services)
}

async fn after_a_lost_lease_the_end_of_an_outage_makes_a_run_due_on_the_next_holder(replicas: Bed) {
    let (log, replicas, _other, fails, [a, b]) = two_senders(replicas, true).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(40.0).await;
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(20.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Standby, ServiceState::Running));
    assert_eq!(log.times("b runs").len(), 0, "a takeover alone makes no run due");
    fails.store(false, Ordering::SeqCst);
    replicas.run_for(30.0).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 1), "{:?}", log.all());
    // The former holder has nothing to continue any more.
    stop(&b);
    replicas.run_for(60.0).await;
    assert_eq!((a.state(), log.times("a runs").len()), (ServiceState::Running, 1), "{:?}", log.all());
}

async fn after_a_stop_the_end_of_an_outage_makes_a_run_due_on_the_next_holder(replicas: Bed) {
    let (log, replicas, _other, fails, [a, b]) = two_senders(replicas, true).await;
    stop(&a);
    replicas.run_for(30.0).await;
    let before = log.times("b runs").len();
    fails.store(false, Ordering::SeqCst);
    replicas.run_for(30.0).await;
    assert_eq!((b.state(), log.times("b runs").len()), (ServiceState::Running, before + 1), "{:?}", log.all());
}

async fn failed_rows_without_an_outage_make_no_run_due_on_the_next_holder(replicas: Bed) {
    let (log, replicas, _other, _fails, [a, b]) = two_senders(replicas, false).await;
    stop(&a);
    replicas.run_for(60.0).await;
    assert_eq!((b.state(), log.times("b runs").len()), (ServiceState::Running, 0), "{:?}", log.all());
}

async fn many_wake_ups_are_few_requests(replicas: Bed) {
    let (log, other, a, b) = two(&replicas).await;
    for _ in 0..200 {
        b.wake();
        replicas.run_for(0.05).await;
    }
    let rows = async || replicas.number("SELECT count(*) FROM service_request").await;
    assert!(rows().await <= 1, "the holder removes what it serves: {}", rows().await);
    replicas.run_for(45.0).await;
    assert_eq!((log.times("a runs"), rows().await), (vec![0.0, 20.0], 0), "{:?}", log.all());
    // Without a holder they wait, as one request.
    replicas.bed.partition(&other);
    stop(&a);
    replicas.run_for(5.0).await;
    for _ in 0..20 {
        b.wake();
        other.run_for(Duration::from_millis(500)).await;
    }
    replicas.bed.heal(&other);
    replicas.run_for(3.0).await;
    assert!(rows().await <= 1, "{}", rows().await);
}

/// Is ready after 10 s.
struct Gate;

#[service(discover = false)]
impl Gate {
    async fn configure(_cx: &Context) -> Result<Self> {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok(Self)
    }

    async fn update(&mut self) {}
}

struct Packer {
    name: &'static str,
    log: Log,
}

#[service(on_demand = true, wake_on = ["orders"], scope = "cluster", lease = 30, discover = false)]
impl Packer {
    async fn update(&mut self) {
        self.log.add(format!("{} runs", self.name));
    }
}

async fn a_wake_up_of_a_replica_that_starts_reaches_the_holder(replicas: Bed) {
    let (log, on_a, on_b) = (Log::new(), Log::new(), Log::new());
    let a = {
        let log = on_a.clone();
        replicas.bed.start_fn(move || Packer { name: "a", log: log.clone() }).await
    };
    replicas.run_for(2.0).await;
    assert_eq!((a.state(), on_a.times("a runs").len()), (ServiceState::Running, 1));
    let other = replicas.other().await.set("packer.depends_on", ["gate"]);
    let gate = other.start_of::<Gate>();
    let packer = async {
        let log = on_b.clone();
        tokio::task::yield_now().await;
        other.start_fn(move || Packer { name: "b", log: log.clone() }).await
    };
    let wakes = async {
        let services = other.services().await;
        while services.get("packer").is_none_or(|packer| packer.state() != ServiceState::Starting) {
            tokio::task::yield_now().await;
        }
        services.get("packer").unwrap().wake();
        log.add("woken");
    };
    let (_gate, b, ()) = tokio::join!(gate, packer, wakes);
    replicas.run_for(30.0).await;
    assert_eq!((b.state(), log.times("woken").len()), (ServiceState::Standby, 1));
    assert_eq!((on_a.times("a runs").len(), on_b.times("b runs").len()), (2, 0), "{:?}", on_a.all());
}

/// The holder has received the notification, too.
async fn a_replica_on_standby_that_stops_makes_no_run_of_a_notification(replicas: Bed) {
    let (on_a, on_b, other) = (Log::new(), Log::new(), replicas.other().await);
    let start = async |bed: &TestBed, name, log: &Log| {
        let log = log.clone();
        bed.start_fn(move || Packer { name, log: log.clone() }).await
    };
    let a = start(&replicas.bed, "a", &on_a).await;
    let b = start(&other, "b", &on_b).await;
    replicas.run_for(5.0).await;
    assert_eq!((a.state(), b.state()), (ServiceState::Running, ServiceState::Standby));
    other.services().await.notify("orders");
    replicas.run_for(60.0).await;
    assert_eq!(on_a.times("a runs").len(), 2, "{:?}", on_a.all());
    stop(&b);
    replicas.run_for(60.0).await;
    assert_eq!((on_a.times("a runs").len(), on_b.times("b runs").len()), (2, 0), "{:?}", on_a.all());
}

/// SQLite accepts any value in any column.
#[tokio::test(start_paused = true)]
async fn on_sqlite_a_row_that_cannot_be_read_stops_no_request() {
    let (lines, _guard) = crate::log::Log::listen();
    let replicas = Bed::memory().await.unwrap();
    let (log, _other, _a, b) = two(&replicas).await;
    replicas.run_for(30.0).await;
    replicas
        .execute(
            "INSERT INTO service_request (id, service_id, action, requested_by, requested_at) \
             VALUES ('odd', 'other', 'wake', 'ann', 'now')",
        )
        .await;
    replicas
        .execute("INSERT INTO service_replica VALUES ('odd', 'web', 'none', '1', '2026-01-01T00:00:00Z', 'now', '[]')")
        .await;
    let replica = async || replicas.bed.services().await.replicas().await.unwrap().len();
    assert_eq!(replica().await, 2);
    b.wake();
    replicas.run_for(10.0).await;
    assert_eq!(log.times("a runs").len(), 2, "{:?}", log.all());
    for table in ["service_request", "service_replica"] {
        let warnings = lines.warnings();
        let told = warnings.iter().filter(|line| line.contains(&format!("the row `odd` of {table} is ignored")));
        // Each replica reports it once, and the row is removed later.
        assert!((1..=2).contains(&told.count()), "{warnings:?}");
    }
    replicas.run_for(120.0).await;
    for table in ["service_request", "service_replica"] {
        assert_eq!(replicas.number(&format!("SELECT count(*) FROM {table} WHERE id = 'odd'")).await, 0, "{table}");
    }
}

/// The holder has taken the request, did not learn that, and lost the lease for a while.
async fn an_old_request_whose_answer_was_lost_is_not_carried_out(replicas: Bed) {
    let (log, _other, _a, _b) = two(&replicas).await;
    replicas.run_for(100.0).await;
    for (id, requested_at) in [("old", "expires_at - lease_ms - 100000"), ("new", "4000000000000")] {
        let taken = format!(
            "INSERT INTO service_request (id, service_id, action, requested_by, requested_at, taken_by) \
             SELECT '{id}', service_id, 'run', 'b', {requested_at}, owner FROM service_lease"
        );
        replicas.execute(&taken).await;
        replicas.run_for(100.0).await;
    }
    assert_eq!(log.times("a runs").len(), 2, "{:?}", log.all());
}
