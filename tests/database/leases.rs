//! Claims of `claim_each` and their leases: by the database's clock, released when a claim is dropped, and not used
//! after they have expired.

use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use chrono::Utc;
use sea_orm::{ConnectionTrait, Statement};
use service_core::__private::database::{ServiceDb, WallClock};
use service_core::prelude::*;

use crate::Bench;
use crate::batches::{one_connection, reads};
use crate::bed::{Bed, on_each};
use crate::killed::Worker;
use crate::log::Log;
use crate::tables::{effects, job, jobs, more_jobs, statuses};

/// Owner and crashes of each claim.
async fn claims(bench: &Bench) -> Vec<(String, i64)> {
    let select = "SELECT owner, crashes FROM service_claim ORDER BY row_key";
    let select = Statement::from_string(bench.db.get_database_backend(), select);
    let rows = bench.db.query_all_raw(select).await.unwrap();
    rows.iter().map(|row| (row.try_get("", "owner").unwrap(), row.try_get("", "crashes").unwrap())).collect()
}

async fn work(service_db: &ServiceDb) -> Result<Outcome> {
    let mut batch = service_db.claim_each::<job::Entity>(10).await?;
    while let Some(item) = batch.next().await? {
        item.settle(Ok::<_, Error>(())).await?;
    }
    batch.commit().await
}

/// A worker whose clock is ahead of another's takes no row from it, and records no crash.
pub(crate) async fn workers_whose_clocks_differ_respect_each_others_claims(bench: Bench) {
    jobs(&bench.db, 2).await;
    let first = ServiceDb::new(bench.db.clone(), "first");
    let ahead = WallClock::new(|| Utc::now() + chrono::Duration::seconds(3_600));
    let second = ServiceDb::new(bench.db.clone(), "second").with_row_clock(ahead);
    let behind = WallClock::new(|| Utc::now() - chrono::Duration::seconds(3_600));
    let third = ServiceDb::new(bench.db.clone(), "third").with_row_clock(behind);
    let mut batch = first.claim_each::<job::Entity>(1).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();
    let other = second.claim_each::<job::Entity>(10).await.unwrap();
    assert_eq!(other.remaining(), 1, "the row that is free");
    assert_eq!(third.claim_each::<job::Entity>(10).await.unwrap().remaining(), 0);
    assert!(claims(&bench).await.iter().all(|(owner, crashes)| !owner.is_empty() && *crashes == 0));
    item.settle(Ok::<_, Error>(())).await.unwrap();
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).again());
    drop(other);
    second.settle(None).await.unwrap();
    // Claims that were made with a clock that is behind stand as long as others.
    let batch = third.claim_each::<job::Entity>(10).await.unwrap();
    assert_eq!(batch.remaining(), 1);
    assert_eq!(first.claim_each::<job::Entity>(10).await.unwrap().remaining(), 0);
}

/// A claim that is dropped at any moment leaves no claims and no crash.
pub(crate) async fn a_dropped_claim_releases_everything(bench: Bench) {
    jobs(&bench.db, 20).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    for polls in 1..60 {
        {
            let claim = service_db.claim_each::<job::Entity>(5).into_future();
            tokio::pin!(claim);
            for _ in 0..polls {
                let polled = std::future::poll_fn(|cx| Poll::Ready(claim.as_mut().poll(cx))).await;
                if polled.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(fastrand::u64(50..400))).await;
            }
        }
        // As the end of a run does.
        service_db.settle(None).await.unwrap();
        assert_eq!(claims(&bench).await, [], "after {polls} polls");
    }
    // And so do the other futures of a batch.
    for polls in 1..40 {
        more_jobs(&bench.db, polls * 100..=polls * 100 + 3).await;
        {
            let batch = async {
                let mut batch = service_db.claim_each::<job::Entity>(4).await?;
                let item = batch.next().await?;
                if let Some(item) = item {
                    item.settle(Ok::<_, Error>(())).await?;
                }
                batch.commit().await
            };
            tokio::pin!(batch);
            for _ in 0..polls {
                let polled = std::future::poll_fn(|cx| Poll::Ready(batch.as_mut().poll(cx))).await;
                if polled.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(fastrand::u64(50..400))).await;
            }
        }
        service_db.settle(Some("dropped")).await.unwrap();
        assert_eq!(claims(&bench).await, [], "after {polls} polls");
    }
    let other = ServiceDb::new(bench.db.clone(), "other");
    while work(&other).await.unwrap() != Outcome::idle() {}
    let pending = statuses(&bench.db).await.iter().filter(|status| *status == "pending").count();
    // Only what was in flight was charged, and waits for its next attempt.
    assert!(pending < 40, "{pending}");
}

/// Claims of workers that died long ago, of rows that another program has completed.
pub(crate) async fn stale_claims_do_not_slow_other_claims(bench: Bench) {
    jobs(&bench.db, 0).await;
    more_jobs(&bench.db, 100_001..=100_040).await;
    let expired = Utc::now().timestamp_millis() - 3_600_000;
    let numbers = if bench.is_postgres() {
        "SELECT generate_series(1, 50000)"
    } else {
        "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000"
    };
    let insert = format!(
        "WITH RECURSIVE n (i) AS ({numbers}) \
         INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at, seq, crashes) \
         SELECT 'job', CAST(i AS TEXT), 'worker', 'worker/' || (i % 50), {expired}, i, 0 FROM n"
    );
    bench.db.execute_unprepared(&insert).await.unwrap();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    let begun = Instant::now();
    assert_eq!(work(&service_db).await.unwrap(), Outcome::processed(10).again());
    let first = begun.elapsed();
    // One for each worker that died.
    assert_eq!(claims(&bench).await.len(), 50);
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(work(&service_db).await.unwrap().again(), Outcome::processed(10).again());
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < first, "{fastest:?}, and {first:?} with all stale claims");
}

/// Claims that were released stay in the index until the next vacuum. The completion of an item does not read those of
/// others.
pub(crate) async fn on_postgres_a_completion_does_not_read_released_claims(bench: Bench) {
    const ROWS: u64 = 400;
    const RELEASED: u64 = 5_000;
    if !bench.is_postgres() {
        return;
    }
    jobs(&bench.db, i64::try_from(ROWS).unwrap()).await;
    for sql in [
        "ALTER TABLE service_claim SET (autovacuum_enabled = off)",
        &format!(
            "INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at, seq, crashes) \
             SELECT 'job', 'released ' || n, 'worker', 'worker', 0, n, 0 FROM generate_series(1, {RELEASED}) AS n"
        ),
        "DELETE FROM service_claim",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let db = one_connection(&bench).await;
    let service_db = ServiceDb::new(db.clone(), "worker");
    let read = async || {
        let [_, entries, _, rows] = reads(&db, "service_claim_pkey").await;
        u64::try_from(entries + rows).unwrap()
    };
    let before = read().await;
    for _ in 0..4 {
        let claim = service_db.claim_each::<job::Entity>(ROWS / 4);
        assert_eq!(claim.for_each(async |_| ()).await.unwrap().items_processed(), ROWS / 4);
    }
    // Each claim of a hundred rows reads all of them some times.
    let read = read().await - before;
    assert!(read < ROWS * RELEASED / 10, "{read}");
}

/// A batch whose lease has expired, as nothing renewed it, lends no more rows.
pub(crate) async fn a_batch_whose_lease_has_expired_lends_no_more(bench: Bench) {
    jobs(&bench.db, 5).await;
    let service_db = ServiceDb::new(bench.db.clone(), "first");
    // Long enough for the first item on a busy machine, too.
    let lease = Duration::from_secs(3);
    let mut batch = service_db.claim_each::<job::Entity>(5).lease(lease).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();
    // The renewals find no table.
    bench.db.execute_unprepared("ALTER TABLE service_claim RENAME TO away").await.unwrap();
    tokio::time::sleep(lease + lease / 3).await;
    bench.db.execute_unprepared("ALTER TABLE away RENAME TO service_claim").await.unwrap();
    // A renewal that comes too late brings nothing back.
    tokio::time::sleep(lease / 2).await;
    let other = ServiceDb::new(bench.db.clone(), "second");
    let mut theirs = other.claim_each::<job::Entity>(5).await.unwrap();
    assert_eq!(theirs.remaining(), 5);
    let _ = item.settle(Ok::<_, Error>(())).await;
    assert!(batch.next().await.unwrap().is_none(), "its rows are another worker's");
    assert_eq!(batch.commit().await.unwrap(), Outcome::idle().again());
    while let Some(item) = theirs.next().await.unwrap() {
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    assert_eq!(theirs.commit().await.unwrap(), Outcome::processed(5));
    assert_eq!(claims(&bench).await, []);
}

/// A process that is suspended for longer than its lease: at most the item in progress is done twice.
pub(crate) async fn a_suspended_process_repeats_one_item_at_most(bench: Bench) {
    jobs(&bench.db, 30).await;
    bench.db.execute_unprepared("CREATE TABLE mail (job BIGINT NOT NULL)").await.unwrap();
    let signal = |name: &str, worker: &Worker| {
        assert!(Command::new("kill").args([name, &worker.id().to_string()]).status().unwrap().success());
    };
    let first = Worker::start(&bench.url, "mailer");
    // Its lease is three seconds; each mail takes 40 ms.
    let begun = Instant::now();
    while sent(&bench).await < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    signal("-STOP", &first);
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let second = Worker::start(&bench.url, "mailer");
    let begun = Instant::now();
    while sent(&bench).await < 15 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    signal("-CONT", &first);
    let begun = Instant::now();
    while statuses(&bench.db).await.iter().any(|status| status != "completed") {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", statuses(&bench.db).await);
    }
    drop((first, second));
    let mails = sent(&bench).await;
    assert!((30..=31).contains(&mails), "{mails} mails for 30 rows");
    assert_eq!(effects(&bench.db).await, Vec::<i64>::new());
}

/// The number of mails that were sent: the mailer records each outside of the item's transaction.
async fn sent(bench: &Bench) -> i64 {
    let select = Statement::from_string(bench.db.get_database_backend(), "SELECT count(*) AS n FROM mail");
    match bench.db.query_one_raw(select).await {
        Ok(Some(row)) => row.try_get("", "n").unwrap(),
        _ => 0,
    }
}

/// Holds SQLite's write lock again and again, without a gap.
#[derive(Default)]
struct Greedy;

#[service(interval = 1, discover = false)]
impl Greedy {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let tx = cx.begin().await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        tx.commit().await?;
        Ok(Outcome::idle().again())
    }
}

/// Each item takes longer than the lease.
#[derive(Clone, Default)]
struct Slow {
    calls: Arc<AtomicU32>,
}

#[service(interval = 1, discover = false)]
impl Slow {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let claim = cx.claim_each::<job::Entity>(1).lease(Duration::from_secs(3));
        claim
            .for_each(async |_| {
                self.calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(10)).await;
            })
            .await
    }
}

/// The renewal of the claims queues for the lock as every other writer does.
#[tokio::test(start_paused = true)]
async fn on_sqlite_other_writers_do_not_keep_claims_from_being_renewed() {
    let bed = Bed::file().await.unwrap();
    jobs(&bed.db, 1).await;
    let (log, _listening) = Log::listen();
    let (services, slow) = (bed.bed.services().await, Slow::default());
    services.register("slow", slow.clone()).start().await.unwrap();
    services.register("other", slow.clone()).start().await.unwrap();
    services.register("greedy", Greedy).start().await.unwrap();
    bed.bed.run_for(Duration::from_secs(30)).await;
    assert_eq!(slow.calls.load(Ordering::SeqCst), 1);
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'completed' AND attempts = 1").await, 1);
    let lost: Vec<_> = log.warnings().into_iter().filter(|line| line.contains("claim")).collect();
    assert!(lost.iter().all(|line| line.contains("no index serves")), "{lost:?}");
}

on_each! {
    a_batch_that_is_dropped_in_a_run_that_goes_on_releases_its_claims,
}

/// Drops a batch with one item in flight, and goes on.
struct Dropper;

#[service(discover = false)]
impl Dropper {
    async fn run(&mut self, cx: &Context) -> Result<()> {
        let mut batch = cx.claim_each::<job::Entity>(3).await?;
        assert!(batch.next().await?.is_some());
        drop(batch);
        cx.stopping().await;
        Ok(())
    }
}

async fn a_batch_that_is_dropped_in_a_run_that_goes_on_releases_its_claims(bed: Bed) {
    const CLAIMS: &str = "SELECT count(*) FROM service_claim";
    jobs(&bed.db, 3).await;
    let dropper = bed.bed.start(Dropper).await;
    bed.bed.run_for(Duration::from_secs(2)).await;
    assert_eq!(bed.number(CLAIMS).await, 1, "that of the item in flight");
    bed.bed.run_for(Duration::from_secs(30)).await;
    assert_eq!(bed.number(CLAIMS).await, 0);
    let charged = crate::tables::job(&bed.db, 1).await;
    assert_eq!((charged.attempts, charged.error_message.as_deref()), (1, Some("not settled")));
    assert_eq!(bed.number("SELECT count(*) FROM job WHERE status = 'pending' AND attempts = 0").await, 2);
    bed.bed.run_for(Duration::from_secs(300)).await;
    dropper.stop().await.unwrap();
    assert_eq!(crate::tables::job(&bed.db, 1).await.attempts, 1, "once");
    assert_eq!(bed.number(CLAIMS).await, 0);
}
