//! `for_each` and `for_each_with`: items without a loop, one at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder, Set};
use service_core::__private::database::ServiceDb;
use service_core::database::{Item, Transaction};
use service_core::prelude::*;
use tokio::sync::Notify;

use crate::Bench;
use crate::each::claims;
use crate::tables::{create, effect, effects, job, jobs, statuses, ticket};

fn service_db(bench: &Bench) -> ServiceDb {
    ServiceDb::new(bench.db.clone(), "worker")
}

pub(crate) async fn set_payload(bench: &Bench, id: i64, payload: &str) {
    let row = job::ActiveModel { id: Set(id), payload: Set(payload.into()), ..Default::default() };
    job::Entity::update(row).exec(&bench.db).await.unwrap();
}

/// Fails as the payload says, after its effect was written.
pub(crate) async fn process(job: &job::Model, tx: &Transaction) -> Result<()> {
    effect(tx, job.id).await?;
    match job.payload.as_str() {
        "bad" => Err(Error::msg("a bad payload")),
        "fatal" => Err(Error::fatal("hopeless")),
        "panic" => panic!("a payload that panics"),
        "unprintable" => Err(Error::new(Unprintable)),
        "hang" => std::future::pending().await,
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct Unprintable;

impl std::fmt::Display for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error that panics")
    }
}

impl std::error::Error for Unprintable {}

/// Every row ends as in the loop: its own writes are kept or undone, and the outcome counts it.
pub(crate) async fn every_item_ends_by_what_its_closure_returns(bench: Bench) {
    jobs(&bench.db, 8).await;
    for (id, payload) in [(2, "bad"), (3, "fatal"), (4, "panic"), (5, "unprintable")] {
        set_payload(&bench, id, payload).await;
    }
    let service_db = service_db(&bench);
    let outcome = service_db.claim::<job::Entity>(7).for_each(async |item| process(item.model(), item.tx()).await);
    assert_eq!(outcome.await.unwrap(), Outcome::processed(3).failed(4).again());
    assert_eq!(effects(&bench.db).await, [1, 6, 7]);
    let rest = service_db.claim_each::<job::Entity>(7).for_each(async |item| process(item.model(), item.tx()).await);
    assert_eq!(rest.await.unwrap(), Outcome::processed(1));
    assert_eq!(effects(&bench.db).await, [1, 6, 7, 8]);
    let found: Vec<_> = statuses(&bench.db).await;
    let expected = ["completed", "pending", "failed", "pending", "pending", "completed", "completed", "completed"];
    assert_eq!(found, expected);
    let message = async |id| crate::tables::job(&bench.db, id).await.error_message.unwrap();
    assert_eq!(message(2).await, "a bad payload");
    let (panic, unprintable) = (message(4).await, message(5).await);
    assert!(panic.starts_with("panicked: a payload that panics"), "{panic}");
    assert!(unprintable.starts_with("panicked: an error that panics"), "{unprintable}");
    assert_eq!(claims(&bench).await, 0);
}

/// Each item commits by itself with `claim_each`, so an item that panics undoes nothing of the others.
pub(crate) async fn with_claim_each_a_panic_undoes_only_its_own_item(bench: Bench) {
    jobs(&bench.db, 5).await;
    set_payload(&bench, 3, "panic").await;
    let service_db = service_db(&bench);
    let mut before = Vec::new();
    let each = service_db.claim_each::<job::Entity>(10);
    let outcome = each.for_each_with(&mut before, async |before, item| {
        before.push(effects(&bench.db).await.len());
        process(item.model(), item.tx()).await
    });
    assert_eq!(outcome.await.unwrap(), Outcome::processed(4).failed(1));
    assert_eq!(before, [0, 1, 2, 2, 3], "each item has committed before the next one");
    assert_eq!(effects(&bench.db).await, [1, 2, 4, 5]);
    assert_eq!(crate::tables::job(&bench.db, 3).await.attempts, 1);
    assert_eq!(claims(&bench).await, 0);
}

/// The closure may return what `settle` takes.
pub(crate) async fn a_closure_returns_what_settle_takes(bench: Bench) {
    create(&bench.db, ticket::Entity).await;
    let rows = (0..6).map(|n| ticket::ActiveModel {
        id: Set(sea_orm::prelude::Uuid::from_u128(n)),
        status: Set("pending".into()),
        error: Set(String::new()),
    });
    ticket::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    let service_db = service_db(&bench);
    let claim = || service_db.claim::<ticket::Entity>(1);
    let each = || service_db.claim_each::<ticket::Entity>(1);
    assert_eq!(claim().for_each(async |_| ()).await.unwrap(), Outcome::processed(1).again());
    assert_eq!(each().for_each(async |_| {}).await.unwrap(), Outcome::processed(1).again());
    let number = claim().for_each(async |item| item.model().status.parse::<u32>()).await;
    assert_eq!(number.unwrap(), Outcome::processed(0).failed(1).again(), "the value of `Ok` does not matter");
    let text = each().for_each(async |_| Err::<(), _>("a text")).await;
    assert_eq!(text.unwrap(), Outcome::processed(0).failed(1).again());
    let boxed = claim().for_each(async |_| -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("in a box".into())
    });
    assert_eq!(boxed.await.unwrap(), Outcome::processed(0).failed(1).again());
    let mut attempts = 0;
    let counted = each().for_each_with(&mut attempts, async |attempts, item| *attempts += item.attempt());
    assert_eq!(counted.await.unwrap(), Outcome::processed(1));
    assert_eq!(attempts, 1);
    let rows = ticket::Entity::find().order_by_asc(ticket::Column::Id).all(&bench.db).await.unwrap();
    let errors: Vec<String> = rows.into_iter().map(|row| row.error).collect();
    assert_eq!(errors, ["", "", "invalid digit found in string", "a text", "in a box", ""]);
}

struct Sums {
    total: i64,
    seen: Vec<i64>,
}

impl Sums {
    async fn add(&mut self, item: &Item<job::Entity>) -> Result<()> {
        self.seen.push(item.model().id);
        process(item.model(), item.tx()).await?;
        self.total += item.model().id;
        Ok(())
    }
}

/// `for_each_with` lends a value that items may change, one item at a time; also after a panic.
pub(crate) async fn a_lent_value_is_changed_by_each_item(bench: Bench) {
    jobs(&bench.db, 12).await;
    for id in [2, 8] {
        set_payload(&bench, id, "panic").await;
    }
    let service_db = service_db(&bench);
    let mut sums = Sums { total: 0, seen: Vec::new() };
    let outcome = service_db.claim::<job::Entity>(6).for_each_with(&mut sums, Sums::add).await;
    assert_eq!(outcome.unwrap(), Outcome::processed(5).failed(1).again());
    assert_eq!((sums.total, sums.seen.as_slice()), (19, [1, 2, 3, 4, 5, 6].as_slice()));
    let outcome =
        service_db.claim_each::<job::Entity>(6).for_each_with(&mut sums, async |sums, item| sums.add(item).await);
    assert_eq!(outcome.await.unwrap(), Outcome::processed(5).failed(1));
    assert_eq!((sums.total, sums.seen.len()), (19 + 49, 12));
    assert_eq!(effects(&bench.db).await, [1, 3, 4, 5, 6, 7, 9, 10, 11, 12]);
}

/// The future of `for_each` may be dropped: an uncommitted batch is undone, and only the item in flight loses an
/// attempt.
pub(crate) async fn a_dropped_for_each_charges_only_the_item_in_flight(bench: Bench) {
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 6).await;
        set_payload(&bench, 3, "hang").await;
        let service_db = service_db(&bench);
        let hangs = Notify::new();
        let code = async |item: &Item<job::Entity>| {
            if item.model().payload == "hang" {
                hangs.notify_one();
            }
            process(item.model(), item.tx()).await
        };
        let drop_it = async {
            hangs.notified().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if each {
            tokio::select! {
                _ = service_db.claim_each::<job::Entity>(5).for_each(code) => panic!("it ends"),
                () = drop_it => {}
            }
        } else {
            tokio::select! {
                _ = service_db.claim::<job::Entity>(5).for_each(code) => panic!("it ends"),
                () = drop_it => {}
            }
        }
        service_db.settle(Some("timed out")).await.unwrap();
        let rows = job::Entity::find().order_by_asc(job::Column::Id).all(&bench.db).await.unwrap();
        let attempts: Vec<i32> = rows.into_iter().map(|row| row.attempts).collect();
        let (done, expected) = if each { (vec![1, 2], [1, 1, 1, 0, 0, 0]) } else { (Vec::new(), [0, 0, 1, 0, 0, 0]) };
        assert_eq!((effects(&bench.db).await, attempts.as_slice()), (done, expected.as_slice()), "{each}");
        assert_eq!(crate::tables::job(&bench.db, 3).await.error_message.as_deref(), Some("timed out"));
        assert_eq!(claims(&bench).await, 0);
    }
}

/// A worker with a limit of failures in a row, as every service has one.
struct Worker {
    each: bool,
    done: AtomicU64,
}

#[service(interval = "20ms", max_failures = 1, discover = false)]
impl Worker {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        if self.each {
            cx.claim_each::<job::Entity>(16).for_each(async |item| self.one(item).await).await
        } else {
            cx.claim::<job::Entity>(16).for_each(async |item| self.one(item).await).await
        }
    }
}

impl Worker {
    async fn one(&self, item: &Item<job::Entity>) -> Result<()> {
        process(item.model(), item.tx()).await?;
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Forty rows that panic, among others that do not: the worker continues, and each of the forty has its own message.
pub(crate) async fn forty_rows_that_panic_do_not_end_a_worker(bench: Bench) {
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 60).await;
        bench.db.execute_unprepared("UPDATE job SET payload = 'panic', attempts = 2 WHERE id <= 40").await.unwrap();
        let services = ServiceRegistry::builder()
            .without_discovered()
            .database(bench.db.clone())
            .service("worker", Worker { each, done: AtomicU64::new(0) })
            .start_all()
            .await
            .unwrap();
        let worker = services.get("worker").unwrap();
        crate::away::until("all rows are done", || worker.health().total_processed == 20).await;
        let health = worker.health();
        assert_eq!((health.state, health.failures, health.error_count), (ServiceState::Running, 0, 0), "{health:?}");
        assert_eq!(health.total_failed, 40);
        services.shutdown().await.unwrap();
        let rows = job::Entity::find().all(&bench.db).await.unwrap();
        for row in rows.iter().filter(|row| row.id <= 40) {
            let message = row.error_message.as_deref().unwrap();
            assert_eq!((row.status.as_str(), row.attempts), ("failed", 3));
            // The place of the panic is known because the registry installs a panic hook.
            assert!(
                message.starts_with("panicked: a payload that panics (") && message.contains("for_each.rs:"),
                "{message}"
            );
        }
        assert_eq!(effects(&bench.db).await, (41..=60).collect::<Vec<_>>());
        assert_eq!(claims(&bench).await, 0);
    }
}

/// A panic is a mistake of the program, so it is a warning also if the row will be tried again.
pub(crate) async fn the_panic_of_an_item_is_a_warning_with_its_place(bench: Bench) {
    let (log, _guard) = crate::log::Log::listen();
    jobs(&bench.db, 3).await;
    set_payload(&bench, 2, "panic").await;
    let services = ServiceRegistry::builder().without_discovered().database(bench.db.clone()).build().await.unwrap();
    let service_db = service_db(&bench);
    let outcome =
        service_db.claim::<job::Entity>(7).for_each(async |item| process(item.model(), item.tx()).await).await;
    assert_eq!(outcome.unwrap(), Outcome::processed(2).failed(1));
    let warnings: Vec<String> = log.warnings().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("WARN an item panicked and will be tried again"), "{warnings:?}");
    assert!(warnings[0].contains("key=\"2\"") && warnings[0].contains("for_each.rs:"), "{warnings:?}");
    drop(services);
}
