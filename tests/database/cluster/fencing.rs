//! The database refuses what a replica writes that has lost its lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use service_core::prelude::*;
use service_core::testing::TestBed;

use super::Log;
use crate::bed::{Bed, on_each};
use crate::tables::{self, job};

on_each! {
    a_commit_after_another_takeover_is_refused,
    a_transaction_may_raise_its_isolation_level,
    the_store_is_fenced,
    a_row_of_a_refused_batch_stays_as_it_was,
    a_context_of_a_former_run_cannot_write,
    each_takeover_has_a_greater_epoch,
    the_cleanup_of_a_lost_lease_cannot_write,
}

type Epochs = Arc<Mutex<Vec<Option<u64>>>>;

/// Writes in the way that `what` says.
struct Writer {
    what: &'static str,
    log: Log,
    epochs: Epochs,
    contexts: Arc<Mutex<Vec<Context>>>,
}

#[service(interval = 10, scope = "cluster", lease = 30, discover = false)]
impl Writer {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        self.epochs.lock().unwrap().push(cx.lease_epoch());
        self.contexts.lock().unwrap().push(cx.clone());
        let written = match self.what {
            "transaction" => {
                let tx = cx.begin().await?;
                tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
                tx.commit().await
            }
            "serializable" => {
                let tx = cx.begin().await?;
                if tx.get_database_backend() == sea_orm::DbBackend::Postgres {
                    tx.execute_unprepared("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
                    let level = Statement::from_string(tx.get_database_backend(), "SHOW transaction_isolation");
                    let level =
                        tx.query_one_raw(level).await?.map(|row| row.try_get::<String>("", "transaction_isolation"));
                    assert_eq!(level, Some(Ok("serializable".to_owned())));
                }
                tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
                tx.commit().await
            }
            "store" => cx.store().set("cursor", &1).await,
            "batch" => {
                let batch = cx.claim::<job::Entity>(10).for_each(async |item| {
                    item.tx().execute_unprepared("INSERT INTO note VALUES (1)").await?;
                    Ok::<_, Error>(())
                });
                batch.await.map(drop)
            }
            _ => Ok(()),
        };
        if let Err(error) = &written {
            self.log.add(format!("{error:#}"));
        }
        written
    }

    async fn cleanup(&mut self, cx: &Context) {
        let refused = cx.begin().await.is_err();
        self.log.add(if refused { "cleanup cannot write" } else { "cleanup can write" });
    }
}

struct Setup {
    log: Log,
    epochs: Epochs,
    contexts: Arc<Mutex<Vec<Context>>>,
    service: ServiceHandle,
}

async fn start(bed: &TestBed, what: &'static str) -> Setup {
    let (log, epochs, contexts) = (Log::new(), Epochs::default(), Arc::<Mutex<Vec<Context>>>::default());
    let build = {
        let (log, epochs, contexts) = (log.clone(), epochs.clone(), contexts.clone());
        move || Writer { what, log: log.clone(), epochs: epochs.clone(), contexts: contexts.clone() }
    };
    let service = bed.start_fn(build).await;
    Setup { log, epochs, contexts, service }
}

impl Bed {
    /// As if another replica had taken over, which this one does not know yet.
    async fn take_over(&self) {
        self.execute("UPDATE service_epoch SET epoch = epoch + 1").await;
    }
}

/// Runs a writer once, takes the service over, and lets it write again. Its run is dropped when the commit is refused.
/// Returns the writer, and the number of its rows.
async fn write_twice(replicas: &Bed, what: &'static str, count: &str) -> (Setup, i64) {
    let setup = start(&replicas.bed, what).await;
    replicas.run_for(5.0).await;
    assert!(setup.log.all().is_empty(), "{:?}", setup.log.all());
    let before = replicas.number(count).await;
    replicas.take_over().await;
    replicas.run_for(5.5).await;
    assert_eq!(setup.log.all(), [(10.0, "cleanup cannot write".to_owned())]);
    assert_eq!(replicas.number(count).await, before, "nothing was written");
    let health = setup.service.health();
    assert_eq!((health.failures, health.error_count), (0, 0), "{health:?}");
    (setup, before)
}

async fn a_commit_after_another_takeover_is_refused(replicas: Bed) {
    replicas.execute("CREATE TABLE note (id INTEGER)").await;
    let (setup, before) = write_twice(&replicas, "transaction", "SELECT count(*) FROM note").await;
    assert_eq!(before, 1);
    // It stands by, and takes over again, with the next number.
    replicas.run_for(10.0).await;
    assert_eq!(setup.epochs.lock().unwrap()[..], [Some(1), Some(1), Some(3)]);
    assert_eq!(replicas.number("SELECT count(*) FROM note").await, 2);
}

async fn a_transaction_may_raise_its_isolation_level(replicas: Bed) {
    replicas.execute("CREATE TABLE note (id INTEGER)").await;
    let (_, before) = write_twice(&replicas, "serializable", "SELECT count(*) FROM note").await;
    assert_eq!(before, 1);
}

async fn the_store_is_fenced(replicas: Bed) {
    let times = "SELECT count(DISTINCT updated_at) FROM service_store WHERE updated_at > '2026-01-01T00:00:05'";
    let (_, before) = write_twice(&replicas, "store", times).await;
    assert_eq!(before, 0);
}

async fn a_row_of_a_refused_batch_stays_as_it_was(replicas: Bed) {
    replicas.execute("CREATE TABLE note (id INTEGER)").await;
    tables::create(&replicas.db, job::Entity).await;
    let setup = start(&replicas.bed, "batch").await;
    replicas.run_for(5.0).await;
    tables::more_jobs(&replicas.db, 1..=1).await;
    replicas.take_over().await;
    replicas.run_for(5.5).await;
    assert_eq!(setup.log.all(), [(10.0, "cleanup cannot write".to_owned())]);
    assert_eq!(replicas.number("SELECT count(*) FROM note").await, 0);
    let pending = "SELECT count(*) FROM job WHERE status = 'pending' AND attempts = 0";
    assert_eq!(replicas.number(pending).await, 1);
}

async fn a_context_of_a_former_run_cannot_write(replicas: Bed) {
    let other = replicas.other().await;
    let here = start(&replicas.bed, "nothing").await;
    let there = start(&other, "nothing").await;
    replicas.run_for(5.0).await;
    let former = here.contexts.lock().unwrap()[0].clone();
    assert!(!former.is_stopping());
    here.service.stop().await.unwrap();
    replicas.run_for(1.0).await;
    assert_eq!(there.service.state(), ServiceState::Running);
    assert!(former.is_stopping());
    assert_eq!(former.lease_epoch(), Some(1), "it keeps the number of its own takeover");
    let error = former.begin().await.unwrap_err().to_string();
    assert!(error.contains("the lease of service `writer` was lost (epoch 1)"), "{error}");
}

async fn each_takeover_has_a_greater_epoch(replicas: Bed) {
    let other = replicas.other().await;
    let here = start(&replicas.bed, "nothing").await;
    let there = start(&other, "nothing").await;
    for _ in 0..3 {
        for setup in [&here, &there] {
            replicas.run_for(11.0).await;
            setup.service.stop().await.unwrap();
            replicas.run_for(11.0).await;
            setup.service.start().await.unwrap();
        }
    }
    let mut epochs = [here.epochs.lock().unwrap().clone(), there.epochs.lock().unwrap().clone()].concat();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs, (1..=7).map(Some).collect::<Vec<_>>());
}

async fn the_cleanup_of_a_lost_lease_cannot_write(replicas: Bed) {
    let setup = start(&replicas.bed, "nothing").await;
    replicas.run_for(5.0).await;
    replicas.bed.partition(&replicas.bed);
    replicas.run_for(40.0).await;
    assert_eq!(setup.log.times("cleanup cannot write").len(), 1);
    replicas.bed.heal(&replicas.bed);
    replicas.run_for(30.0).await;
    setup.service.stop().await.unwrap();
    assert_eq!(setup.log.times("cleanup can write").len(), 1, "a stop releases the lease after the cleanup");
}

/// The lease expires while a transaction of its holder is open, and another replica takes it before the commit. On
/// SQLite there is one writer, so the takeover waits for the commit.
#[tokio::test(start_paused = true)]
async fn on_postgresql_a_takeover_after_the_last_write_refuses_the_commit() {
    let Some(replicas) = Bed::postgres().await else { return };
    replicas.execute("CREATE TABLE note (id INTEGER)").await;
    let other = replicas.other().await;
    let here = start(&replicas.bed, "nothing").await;
    let there = start(&other, "nothing").await;
    replicas.run_for(1.0).await;
    let former = here.contexts.lock().unwrap()[0].clone();
    let tx = former.begin().await.unwrap();
    tx.execute_unprepared("INSERT INTO note VALUES (1)").await.unwrap();
    // By a step of the server's clock: the holder does not know.
    replicas.execute("UPDATE service_lease SET expires_at = 0").await;
    there.service.stop().await.unwrap();
    there.service.start().await.unwrap();
    assert_eq!((here.service.state(), there.service.state()), (ServiceState::Running, ServiceState::Running));
    let error = tx.commit().await.unwrap_err().to_string();
    assert!(error.contains("the lease of service `writer` was lost (epoch 1)"), "{error}");
    assert_eq!(replicas.number("SELECT count(*) FROM note").await, 0);
}

#[tokio::test(start_paused = true)]
async fn on_postgresql_an_idle_transaction_lasts_no_longer_than_a_lease() {
    let Some(replicas) = Bed::postgres().await else { return };
    let setup = start(&replicas.bed, "nothing").await;
    replicas.run_for(1.0).await;
    let cx = setup.contexts.lock().unwrap()[0].clone();
    let tx = cx.begin().await.unwrap();
    let show = Statement::from_string(sea_orm::DbBackend::Postgres, "SHOW idle_in_transaction_session_timeout");
    let limit: String = tx.query_one_raw(show).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(limit, "30s");
}

#[tokio::test(start_paused = true)]
async fn a_service_of_every_process_has_no_epoch() {
    let bed = TestBed::new().set("scope", "process");
    bed.sqlite().await;
    let setup = start(&bed, "store").await;
    bed.run_for(Duration::from_secs(15)).await;
    assert_eq!(setup.epochs.lock().unwrap()[..], [None, None]);
    assert!(setup.log.all().is_empty());
}
