//! `claim_each(…).concurrency(…).item_timeout(…).for_each(…)`: several items at the same time, on one task.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, EntityTrait, QueryOrder, Statement};
use service_core::__private::database::ServiceDb;
use service_core::database::Item;
use service_core::prelude::*;
use tokio::sync::{Barrier, Notify};

use crate::Bench;
use crate::away::until;
use crate::completions::until_there_are;
use crate::each::claims;
use crate::for_each::{process, set_payload};
use crate::tables::{effect, effects, job, jobs, more_jobs, statuses};

/// On a pool for four items at the same time, and two other connections.
async fn service_db(bench: &Bench) -> ServiceDb {
    ServiceDb::new(pool(bench, 6).await, "mailer")
}

async fn pool(bench: &Bench, connections: u32) -> sea_orm::DatabaseConnection {
    let mut options = ConnectOptions::new(bench.url.clone());
    options.max_connections(connections);
    Database::connect(options).await.unwrap()
}

/// Counts the items that are in flight.
#[derive(Default)]
pub(crate) struct InFlight {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl InFlight {
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Entered(self)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

pub(crate) struct Entered<'a>(&'a InFlight);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn attempts(bench: &Bench) -> Vec<i32> {
    let rows = job::Entity::find().order_by_asc(job::Column::Id).all(&bench.db).await.unwrap();
    rows.into_iter().map(|row| row.attempts).collect()
}

async fn message(bench: &Bench, id: i64) -> String {
    message_of(&bench.db, id).await
}

pub(crate) async fn as_many_items_as_allowed_are_in_flight(bench: Bench) {
    jobs(&bench.db, 12).await;
    let service_db = service_db(&bench).await;
    // Three items have to meet before one of them ends.
    let (barrier, in_flight) = (Barrier::new(3), InFlight::default());
    let outcome = service_db.claim_each::<job::Entity>(20).concurrency(3).for_each(async |item| {
        let _entered = in_flight.enter();
        barrier.wait().await;
        effect(item.tx(), item.model().id).await
    });
    let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("three items meet");
    assert_eq!(outcome.unwrap(), Outcome::processed(12));
    assert_eq!(in_flight.most(), 3);
    assert_eq!((effects(&bench.db).await, claims(&bench).await), ((1..=12).collect(), 0));
}

/// On SQLite their transactions queue: the time for which an item waits for another one does not count.
pub(crate) async fn a_panic_an_error_and_a_timeout_fail_only_their_items(bench: Bench) {
    jobs(&bench.db, 12).await;
    for (id, payload) in [(1, "hang"), (2, "panic"), (3, "bad"), (4, "hang"), (9, "fatal")] {
        set_payload(&bench, id, payload).await;
    }
    let service_db = service_db(&bench).await;
    let limit = Duration::from_secs(2);
    let claim = service_db.claim_each::<job::Entity>(20).concurrency(4).item_timeout(limit);
    let outcome = claim.for_each(async |item| {
        let limit = if bench.is_postgres() { statement_timeout(item).await } else { 1 };
        assert!((1..=2000).contains(&limit), "{limit}");
        process(item.model(), item.tx()).await
    });
    assert_eq!(outcome.await.unwrap(), Outcome::processed(7).failed(5));
    assert_eq!(effects(&bench.db).await, [5, 6, 7, 8, 10, 11, 12]);
    assert_eq!(attempts(&bench).await, [1; 12]);
    assert_eq!(message(&bench, 1).await, "not done within 2 s (`item_timeout`)");
    assert_eq!(message(&bench, 4).await, "not done within 2 s (`item_timeout`)");
    assert!(message(&bench, 2).await.starts_with("panicked: a payload that panics"));
    assert_eq!(message(&bench, 3).await, "a bad payload");
    assert_eq!(crate::tables::job(&bench.db, 9).await.status, "failed");
    assert_eq!(claims(&bench).await, 0);
}

/// An error that panics when it is dropped.
#[derive(Debug)]
struct PanicsInDrop;

impl std::error::Error for PanicsInDrop {}

impl std::fmt::Display for PanicsInDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad payload")
    }
}

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("a destructor that panics");
    }
}

/// A value that panics when it is cloned for the second time.
struct PanicsInClone(Arc<AtomicUsize>);

impl Clone for PanicsInClone {
    fn clone(&self) -> Self {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) != 1, "a clone that panics");
        Self(self.0.clone())
    }
}

/// What belongs to an item is more than the code of its closure.
pub(crate) async fn a_panic_of_an_error_or_of_a_clone_fails_only_its_item(bench: Bench) {
    jobs(&bench.db, 0).await;
    let service_db = service_db(&bench).await;
    for each in [false, true] {
        for in_drop in [false, true] {
            bench.db.execute_unprepared("DELETE FROM job").await.unwrap();
            more_jobs(&bench.db, 1..=4).await;
            let copied = PanicsInClone(Arc::new(AtomicUsize::new(if in_drop { 2 } else { 0 })));
            let code = async move |item: &Item<job::Entity>| {
                let _captured = &copied;
                if in_drop && item.model().id == 2 { Err(PanicsInDrop) } else { Ok(()) }
            };
            let outcome = match each {
                true => service_db.claim_each::<job::Entity>(10).concurrency(2).for_each(code).await,
                false => service_db.claim::<job::Entity>(10).for_each(code).await,
            };
            assert_eq!(outcome.unwrap(), Outcome::processed(3).failed(1), "{each} {in_drop}");
            assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1; 4], 0), "{each} {in_drop}");
            let expected = if in_drop { "a bad payload" } else { "panicked: a clone that panics" };
            assert!(message(&bench, 2).await.starts_with(expected), "{each} {in_drop}");
        }
    }
}

/// The limit of a statement in milliseconds, on PostgreSQL.
async fn statement_timeout(item: &Item<job::Entity>) -> i64 {
    let sql = "SELECT (extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint AS n";
    let row = item.tx().query_one_raw(Statement::from_string(item.tx().get_database_backend(), sql)).await;
    row.unwrap().unwrap().try_get("", "n").unwrap()
}

/// Items that never wait for anything else exhaust tokio's budget each time. Their timeouts fire, and so do other
/// items' timers.
pub(crate) async fn busy_items_starve_no_other(bench: Bench) {
    jobs(&bench.db, 6).await;
    for id in [1, 2] {
        set_payload(&bench, id, "busy").await;
    }
    let (service_db, begun) = (service_db(&bench).await, Instant::now());
    let claim = service_db.claim_each::<job::Entity>(20).concurrency(4).item_timeout(Duration::from_secs(3));
    let ended: Mutex<Vec<(i64, Duration)>> = Mutex::default();
    let outcome = claim.for_each(async |item| {
        if item.model().payload == "busy" {
            loop {
                tokio::task::consume_budget().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        ended.lock().unwrap().push((item.model().id, begun.elapsed()));
        Ok::<_, Error>(())
    });
    let outcome = tokio::time::timeout(Duration::from_secs(30), outcome).await.expect("the busy items time out");
    assert_eq!(outcome.unwrap(), Outcome::processed(4).failed(2));
    assert_eq!(message(&bench, 1).await, "not done within 3 s (`item_timeout`)");
    let ended = ended.into_inner().unwrap();
    let before = ended.iter().filter(|(_, after)| *after < Duration::from_secs(3)).count();
    assert!(before >= 2, "the others had to wait for the busy ones: {ended:?}");
}

pub(crate) async fn a_concurrency_that_the_pool_cannot_serve_is_reduced_with_one_warning(bench: Bench) {
    let (log, _guard) = crate::log::Log::listen();
    jobs(&bench.db, 40).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let possible = if bench.is_postgres() { 8 } else { 3 };
    for _ in 0..2 {
        let (barrier, in_flight) = (Barrier::new(possible), InFlight::default());
        let n = possible as u64 * 2;
        let outcome = service_db.claim_each::<job::Entity>(n).concurrency(50).for_each(async |_| {
            let _entered = in_flight.enter();
            barrier.wait().await;
        });
        let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("so many meet").unwrap();
        assert_eq!((outcome.items_processed(), in_flight.most()), (n, possible));
    }
    let warnings: Vec<String> = log.warnings().into_iter().filter(|line| line.contains("concurrency")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let expected = format!("`.concurrency(50)` is reduced to {possible}");
    assert!(warnings[0].contains(&expected) && warnings[0].contains("52 connections"), "{warnings:?}");
}

/// A loop and `for_each_with` have one item at a time: such a claim says so, and claims nothing.
pub(crate) async fn options_without_an_effect_are_refused(bench: Bench) {
    jobs(&bench.db, 3).await;
    let service_db = service_db(&bench).await;
    let claim = || service_db.claim_each::<job::Entity>(3);
    let error = claim().concurrency(2).await.unwrap_err().to_string();
    assert!(error.contains("use `for_each`"), "{error}");
    let error = claim().item_timeout(Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains("use `for_each`"), "{error}");
    let error = claim().concurrency(2).for_each_with(&mut 0, async |_, _| ()).await.unwrap_err().to_string();
    assert!(error.contains("one item at a time"), "{error}");
    assert_eq!(claims(&bench).await, 0);
    let mut seen = 0;
    let claim = claim().concurrency(1).item_timeout(Duration::from_secs(60));
    let outcome = claim.for_each_with(&mut seen, async |seen, _| *seen += 1).await;
    assert_eq!((outcome.unwrap(), seen), (Outcome::processed(3), 3));
}

/// `for_each_with` has the time limit, too.
pub(crate) async fn an_item_that_changes_a_value_times_out(bench: Bench) {
    jobs(&bench.db, 3).await;
    set_payload(&bench, 2, "hang").await;
    let service_db = service_db(&bench).await;
    let mut seen = 0;
    let claim = service_db.claim_each::<job::Entity>(5).item_timeout(Duration::from_secs(2));
    let outcome = claim.for_each_with(&mut seen, async |seen, item| {
        *seen += 1;
        process(item.model(), item.tx()).await
    });
    assert_eq!(outcome.await.unwrap(), Outcome::processed(2).failed(1));
    assert_eq!((seen, effects(&bench.db).await), (3, vec![1, 3]));
}

/// On SQLite the items' transactions queue, from their first statement until they are settled, however long that takes.
/// On PostgreSQL they do not.
pub(crate) async fn transactions_queue_on_sqlite_only(bench: Bench) {
    jobs(&bench.db, 8).await;
    let service_db = service_db(&bench).await;
    let (open, waiting) = (InFlight::default(), AtomicUsize::new(0));
    let all_wait = Notify::new();
    let claim = service_db.claim_each::<job::Entity>(10).concurrency(4);
    let outcome = claim.for_each(async |item| {
        if waiting.fetch_add(1, Ordering::SeqCst) == 3 {
            all_wait.notify_one();
        }
        effect(item.tx(), item.model().id).await?;
        let _open = open.enter();
        if item.model().id == 1 && !bench.is_postgres() {
            // Longer than SQLite's busy timeout, and than a service waits for another one's turn.
            all_wait.notified().await;
            tokio::time::sleep(Duration::from_secs(6)).await;
        } else if item.model().id <= 4 && bench.is_postgres() {
            until("all four have an open transaction", || open.most() == 4).await;
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        Ok::<_, Error>(())
    });
    let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("nothing waits for itself");
    assert_eq!(outcome.unwrap(), Outcome::processed(8));
    assert_eq!(open.most(), if bench.is_postgres() { 4 } else { 1 });
    assert_eq!((effects(&bench.db).await, claims(&bench).await), ((1..=8).collect(), 0));
}

/// A statement of an item does not outlive the item's time limit, and the framework's own statements have no such
/// limit.
pub(crate) async fn statements_end_with_the_time_of_their_item(bench: Bench) {
    if !bench.is_postgres() {
        return;
    }
    jobs(&bench.db, 3).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(3); RETURN new; END $$ LANGUAGE plpgsql; \
                CREATE TRIGGER slow BEFORE UPDATE ON job FOR EACH ROW WHEN (old.id = 2) EXECUTE FUNCTION slow()";
    bench.db.execute_unprepared(slow).await.unwrap();
    let (service_db, begun) = (service_db(&bench).await, Instant::now());
    let claim = service_db.claim_each::<job::Entity>(5).concurrency(3).item_timeout(Duration::from_secs(2));
    let outcome = claim.for_each(async |item| match item.model().id {
        1 => item.tx().execute_unprepared("SELECT pg_sleep(30)").await.map(drop),
        2 => effect(item.tx(), 2).await,
        _ => {
            item.tx().execute_unprepared("SET LOCAL statement_timeout = '30s'; SELECT pg_sleep(0.01)").await?;
            effect(item.tx(), 3).await
        }
    });
    assert_eq!(outcome.await.unwrap(), Outcome::processed(2).failed(1));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(effects(&bench.db).await, [2, 3], "the update of row 2 took longer than `item_timeout`");
    let why = message(&bench, 1).await;
    // The server's own words depend on its language.
    assert!(why.starts_with("Execution Error") || why.contains("`item_timeout`"), "{why}");
    // The setting is local to the transaction, so the pool's connections are as before.
    let shown = Statement::from_string(bench.db.get_database_backend(), "SHOW statement_timeout");
    for _ in 0..6 {
        let row = service_db.db().query_one_raw(shown.clone()).await.unwrap().unwrap();
        assert_eq!(row.try_get::<String>("", "statement_timeout").unwrap(), "0");
    }
}

/// A shorter limit of the server, the role or the session stays.
pub(crate) async fn a_shorter_limit_of_statements_stays(bench: Bench) {
    if !bench.is_postgres() {
        return;
    }
    jobs(&bench.db, 2).await;
    let separator = if bench.url.contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}options=-c%20statement_timeout%3D250", bench.url);
    let service_db = ServiceDb::new(service_core::database::connect(&url).await.unwrap(), "mailer");
    let limits: Mutex<Vec<i64>> = Mutex::default();
    for limit in [60, 60_000_000_000] {
        let claim = service_db.claim_each::<job::Entity>(1).item_timeout(Duration::from_secs(limit));
        let outcome = claim.for_each(async |item| {
            let limit = statement_timeout(item).await;
            limits.lock().unwrap().push(limit);
        });
        assert_eq!(outcome.await.unwrap().items_processed(), 1);
    }
    assert_eq!(limits.into_inner().unwrap(), [250, 250]);
}

/// Lends items that wait until the test lets them go on.
struct Waiting {
    started: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    together: bool,
}

#[service(interval = "1h", discover = false, drain_timeout = 60)]
impl Waiting {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let code = async |item: &Item<job::Entity>| {
            effect(item.tx(), item.model().id).await?;
            self.started.fetch_add(1, Ordering::SeqCst);
            self.go_on.notified().await;
            Ok::<_, Error>(())
        };
        let outcome = if self.together {
            cx.claim::<job::Entity>(10).for_each(code).await?
        } else {
            cx.claim_each::<job::Entity>(10).concurrency(3).for_each(code).await?
        };
        self.outcomes.lock().unwrap().push(outcome);
        Ok(outcome)
    }
}

/// On a stop no further item is lent, the items in flight end, and the others are free for the next process.
pub(crate) async fn a_stop_lets_the_items_in_flight_end(bench: Bench) {
    for together in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 10).await;
        let (started, go_on, outcomes) = <(Arc<AtomicUsize>, Arc<Notify>, Arc<Mutex<Vec<Outcome>>>)>::default();
        let service = Waiting { started: started.clone(), go_on: go_on.clone(), outcomes: outcomes.clone(), together };
        let services = ServiceRegistry::builder()
            .without_discovered()
            .database(pool(&bench, 6).await)
            .service("waiting", service)
            .start_all()
            .await
            .unwrap();
        // On SQLite one of them has the open transaction, and the others wait for it.
        let first = if together || !bench.is_postgres() { 1 } else { 3 };
        until("items are in flight", || started.load(Ordering::SeqCst) == first).await;
        let handle = services.get("waiting").unwrap();
        let stopping = tokio::spawn(async move { handle.stop().await });
        until("the stop is requested", || services.get("waiting").unwrap().health().state == ServiceState::Draining)
            .await;
        let expected = if together { 1 } else { 3 };
        for n in 1..=expected {
            go_on.notify_one();
            until("it continues", || started.load(Ordering::SeqCst) >= (n + 1).min(expected)).await;
        }
        stopping.await.unwrap().unwrap();
        assert_eq!(started.load(Ordering::SeqCst), expected, "no further item was lent");
        assert_eq!(*outcomes.lock().unwrap(), [Outcome::processed(expected as u64).again()]);
        let done: Vec<i64> = (1..=expected as i64).collect();
        assert_eq!((effects(&bench.db).await, claims(&bench).await), (done, 0), "{together}");
        let after: Vec<i32> = (1..=10).map(|id| i32::from(id <= expected)).collect();
        assert_eq!(attempts(&bench).await, after);
        services.shutdown().await.unwrap();
    }
}

/// Dropping the future releases all claims. Only the items in flight lose an attempt.
pub(crate) async fn a_dropped_future_charges_only_the_items_in_flight(bench: Bench) {
    jobs(&bench.db, 10).await;
    for id in 3..=5 {
        set_payload(&bench, id, "hang").await;
    }
    let service_db = service_db(&bench).await;
    let begun = AtomicUsize::new(0);
    {
        let outcome = service_db.claim_each::<job::Entity>(9).concurrency(3).for_each(async |item| {
            begun.fetch_add(1, Ordering::SeqCst);
            if item.model().payload == "hang" {
                std::future::pending::<()>().await;
            }
            effect(item.tx(), item.model().id).await
        });
        let two_are_completed = async {
            until_there_are(&bench, 7, "service_claim").await;
            until("three others are in flight", || begun.load(Ordering::SeqCst) == 5).await;
        };
        tokio::select! {
            outcome = outcome => panic!("it ends: {outcome:?}"),
            () = two_are_completed => {}
        }
    }
    service_db.settle(Some("it took too long")).await.unwrap();
    assert_eq!(claims(&bench).await, 0);
    assert_eq!(attempts(&bench).await, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    for id in 3..=5 {
        assert_eq!(message(&bench, id).await, "it took too long");
    }
    assert_eq!(effects(&bench.db).await, [1, 2]);
    bench.db.execute_unprepared("UPDATE job SET payload = 'good', due = NULL").await.unwrap();
    let outcome = service_db.claim_each::<job::Entity>(20).concurrency(4);
    let outcome = outcome.for_each(async |item| effect(item.tx(), item.model().id).await).await;
    assert_eq!(outcome.unwrap(), Outcome::processed(8));
}

/// If a connection breaks under one item, the items beside it end as they would, and the run fails. Nobody loses an
/// attempt.
pub(crate) async fn a_connection_that_breaks_under_one_item_costs_no_other_anything(bench: Bench) {
    if !bench.is_postgres() {
        return;
    }
    jobs(&bench.db, 9).await;
    let service_db = service_db(&bench).await;
    let barrier = Barrier::new(3);
    let outcome = service_db.claim_each::<job::Entity>(9).concurrency(3).for_each(async |item| {
        effect(item.tx(), item.model().id).await?;
        barrier.wait().await;
        if item.model().id == 2 {
            item.tx().execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, sea_orm::DbErr>(())
    });
    let error = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("no further item is lent");
    error.unwrap_err();
    assert_eq!(effects(&bench.db).await, [1, 3]);
    service_db.settle(Some("the connection broke")).await.unwrap();
    assert_eq!((attempts(&bench).await, claims(&bench).await), (vec![1, 0, 1, 0, 0, 0, 0, 0, 0], 0));
    assert_eq!(statuses(&bench.db).await.iter().filter(|status| *status == "completed").count(), 2);
}

/// Works on rows that take a minute each, three at the same time; every tenth would take an hour.
#[derive(Default)]
struct Slow;

#[service(interval = "1h", discover = false)]
impl Slow {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let claim = cx.claim_each::<job::Entity>(30).concurrency(3).item_timeout(Duration::from_secs(90));
        let done = claim.for_each(async |item| {
            cx.sleep(Duration::from_secs(if item.model().id % 10 == 0 { 3_600 } else { 60 })).await;
            effect(item.tx(), item.model().id).await
        });
        done.await
    }
}

#[tokio::test(start_paused = true)]
async fn on_virtual_time_items_overlap_and_time_out_exactly() {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    jobs(&db, 30).await;
    let service = bed.start_of::<Slow>().await;
    bed.run_for(Duration::from_secs(3_000)).await;
    let health = service.health();
    assert_eq!((health.total_processed, health.total_failed, health.runs), (27, 3, 1), "{health:?}");
    // 27 minutes of work and three times 90 s, on three lanes: 630 s, or the end of the longest lane.
    let took = health.last_run_duration_ms.unwrap();
    assert!((630_000..=690_000).contains(&took) && took % 30_000 == 0, "{took} ms");
    assert_eq!(message_of(&db, 10).await, "not done within 90 s (`item_timeout`)");
}

async fn message_of(db: &sea_orm::DatabaseConnection, id: i64) -> String {
    crate::tables::job(db, id).await.error_message.unwrap_or_default()
}
