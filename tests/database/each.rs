//! `claim_each`: every item commits by itself, and no transaction is open while it is processed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Statement};
use service_core::__private::database::{ServiceDb, WallClock};
use service_core::database::Item;
use service_core::{Error, Outcome, Result};

use crate::Bench;
use crate::completions::until_there_are;
use crate::tables::{create, effect, effects, job, jobs, plain, statuses, ticket};

/// The number of claims.
pub(crate) async fn claims(bench: &Bench) -> i64 {
    let count = Statement::from_string(bench.db.get_database_backend(), "SELECT count(*) AS n FROM service_claim");
    bench.db.query_one_raw(count).await.unwrap().unwrap().try_get("", "n").unwrap()
}

async fn work(service_db: &ServiceDb, n: u64) -> Result<Outcome> {
    let mut batch = service_db.claim_each::<job::Entity>(n).await?;
    while let Some(item) = batch.next().await? {
        effect(item.tx(), item.model().id).await?;
        item.settle(Ok::<_, Error>(())).await?;
    }
    batch.commit().await
}

pub(crate) async fn each_item_commits_by_itself(bench: Bench) {
    jobs(&bench.db, 5).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let mut batch = service_db.claim_each::<job::Entity>(3).await.unwrap();
    assert_eq!(claims(&bench).await, 3);
    let item = batch.next().await.unwrap().unwrap();
    effect(item.tx(), 1).await.unwrap();
    item.settle(Ok::<_, Error>(())).await.unwrap();
    assert_eq!((effects(&bench.db).await, claims(&bench).await), (vec![1], 2), "before the batch is done");
    let item = batch.next().await.unwrap().unwrap();
    effect(item.tx(), 2).await.unwrap();
    item.settle(Err::<(), _>("refused")).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();
    // Nothing was written and no transaction begun: another writer does not wait, not even on SQLite.
    bench.db.execute_unprepared("UPDATE job SET payload = 'seen' WHERE id = 5").await.unwrap();
    item.settle(Ok::<_, Error>(())).await.unwrap();
    assert!(batch.next().await.unwrap().is_none());
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(2).failed(1).again());
    assert_eq!(effects(&bench.db).await, [1]);
    assert_eq!(statuses(&bench.db).await, ["completed", "pending", "completed", "pending", "pending"]);
    assert_eq!(crate::tables::job(&bench.db, 2).await.error_message.as_deref(), Some("refused"));
    assert_eq!(claims(&bench).await, 0);
}

/// As with `claim`, an item may change its own row: it may delete it, or move it to an archive.
pub(crate) async fn an_item_may_change_and_delete_its_own_row(bench: Bench) {
    async fn change(item: &Item<job::Entity>) {
        let sql = match item.model().id {
            1 => "DELETE FROM job WHERE id = 1",
            2 => "UPDATE job SET status = 'parked', payload = 'mine' WHERE id = 2",
            3 => "UPDATE job SET status = 'completed' WHERE id = 3",
            _ => "UPDATE job SET attempts = 7, payload = 'mine' WHERE id = 4",
        };
        item.tx().execute_unprepared(sql).await.unwrap();
    }
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 4).await;
        let service_db = ServiceDb::new(bench.db.clone(), "mailer");
        let mut batch = if each {
            service_db.claim_each::<job::Entity>(10).await.unwrap()
        } else {
            service_db.claim::<job::Entity>(10).await.unwrap()
        };
        while let Some(item) = batch.next().await.unwrap() {
            change(&item).await;
            item.settle(Ok::<_, Error>(())).await.unwrap();
        }
        assert_eq!(batch.commit().await.unwrap(), Outcome::processed(4), "{each}");
        assert_eq!(statuses(&bench.db).await, ["completed", "completed", "completed"], "{each}");
        assert_eq!(crate::tables::job(&bench.db, 2).await.payload, "mine", "{each}");
        assert_eq!(crate::tables::job(&bench.db, 4).await.attempts, 8, "{each}");
        assert_eq!(claims(&bench).await, 0, "{each}");
    }
}

/// A claim binds only workers that use `claim_each`. If another program has processed the row, it is not processed
/// twice.
pub(crate) async fn a_row_that_another_worker_has_changed_is_left_alone(bench: Bench) {
    jobs(&bench.db, 4).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let mut batch = service_db.claim_each::<job::Entity>(10).await.unwrap();
    bench.db.execute_unprepared("UPDATE job SET status = 'cancelled' WHERE id > 2").await.unwrap();
    let other = ServiceDb::new(bench.db.clone(), "another");
    let mut theirs = other.claim::<job::Entity>(10).await.unwrap();
    while let Some(item) = theirs.next().await.unwrap() {
        let done = effect(item.tx(), item.model().id).await;
        item.settle(done).await.unwrap();
    }
    assert_eq!(theirs.commit().await.unwrap(), Outcome::processed(2));
    bench.db.execute_unprepared("DELETE FROM effect WHERE job = 1").await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        // One completed row and one released row has something to write.
        let done = if item.model().id % 2 == 1 { effect(item.tx(), item.model().id).await } else { Ok(()) };
        item.settle(done).await.unwrap();
    }
    assert_eq!(batch.commit().await.unwrap(), Outcome::idle());
    assert_eq!(effects(&bench.db).await, [2]);
    assert_eq!(statuses(&bench.db).await, ["completed", "completed", "cancelled", "cancelled"]);
    assert_eq!(claims(&bench).await, 0);
}

pub(crate) async fn claimed_rows_are_not_lent_to_others(bench: Bench) {
    jobs(&bench.db, 10).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let mut first = service_db.claim_each::<job::Entity>(4).await.unwrap();
    let second = service_db.claim_each::<job::Entity>(4).await.unwrap();
    assert_eq!((first.remaining(), second.remaining()), (4, 4));
    let mut third = service_db.claim_each::<job::Entity>(4).await.unwrap();
    assert_eq!(third.remaining(), 2);
    assert_eq!(third.next().await.unwrap().unwrap().model().id, 9);
    assert_eq!(first.next().await.unwrap().unwrap().model().id, 1);
    assert_eq!(second.commit().await.unwrap(), Outcome::idle().again(), "not lent: they stay for the next run");
    assert_eq!(claims(&bench).await, 6);
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(4));
}

pub(crate) async fn a_dropped_batch_releases_its_claims_and_costs_one_row_an_attempt(bench: Bench) {
    jobs(&bench.db, 4).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let run = async {
        let mut batch = service_db.claim_each::<job::Entity>(10).await?;
        while let Some(item) = batch.next().await? {
            effect(item.tx(), item.model().id).await?;
            if item.model().id == 2 {
                return Err(Error::msg("stopped short"));
            }
            item.settle(Ok::<_, Error>(())).await?;
        }
        batch.commit().await
    };
    run.await.unwrap_err();
    service_db.settle(Some("stopped short")).await.unwrap();
    assert_eq!(claims(&bench).await, 0);
    assert_eq!(effects(&bench.db).await, [1]);
    let charged = crate::tables::job(&bench.db, 2).await;
    assert_eq!((charged.attempts, charged.error_message.as_deref()), (1, Some("stopped short")));
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(2));
}

/// The claims of a killed worker stay; when they have expired, another worker takes the rows.
pub(crate) async fn claims_of_a_killed_worker_expire(bench: Bench) {
    jobs(&bench.db, 3).await;
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let shown = Arc::clone(&seconds);
    let clock = WallClock::new(move || DateTime::<Utc>::from_timestamp(shown.load(Ordering::SeqCst), 0).unwrap());
    let dead = ServiceDb::new(bench.db.clone(), "mailer").with_clock(clock.clone());
    let mut batch = dead.claim_each::<job::Entity>(2).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();

    let alive = ServiceDb::new(bench.db.clone(), "mailer").with_clock(clock);
    assert_eq!(work(&alive, 10).await.unwrap(), Outcome::processed(1), "only the one that is free");
    seconds.fetch_add(61, Ordering::SeqCst);
    let theirs = alive.claim_each::<job::Entity>(10).await.unwrap();
    assert_eq!(theirs.remaining(), 2);
    // The worker was not dead: the row is still pending, but another worker holds its claim.
    let refused = effect(item.tx(), 1).await;
    assert!(refused.as_ref().unwrap_err().to_string().contains("its claim has expired"), "{refused:?}");
    item.settle(refused).await.unwrap();
    assert_eq!(effects(&bench.db).await, [3]);
    drop(theirs);
    alive.settle(None).await.unwrap();
    assert_eq!(work(&alive, 10).await.unwrap(), Outcome::processed(2));
    // If one claim has expired, the others have expired, too.
    assert!(batch.next().await.unwrap().is_none());
    assert_eq!(batch.commit().await.unwrap(), Outcome::idle().again());
    assert_eq!(effects(&bench.db).await, [1, 2, 3]);
    assert!(statuses(&bench.db).await.iter().all(|status| status == "completed"));
    assert_eq!(claims(&bench).await, 0);
}

pub(crate) async fn a_running_batch_keeps_its_claims(bench: Bench) {
    jobs(&bench.db, 2).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    // A renewal may be late by two thirds of it.
    let lease = Duration::from_secs(6);
    let mut batch = service_db.claim_each::<job::Entity>(2).lease(lease).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();
    let first =
        Statement::from_string(bench.db.get_database_backend(), "SELECT min(expires_at) AS n FROM service_claim");
    let first: i64 = bench.db.query_one_raw(first).await.unwrap().unwrap().try_get("", "n").unwrap();
    let renewed = format!("service_claim WHERE expires_at > {first} + {}", lease.as_millis());
    until_there_are(&bench, 2, &renewed).await;
    assert_eq!(service_db.claim_each::<job::Entity>(2).await.unwrap().remaining(), 0);
    item.settle(Ok::<_, Error>(())).await.unwrap();
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).again());
}

/// Rows at which a process crashed come last, so a batch that ends early has not reached them: it must keep their
/// counts.
pub(crate) async fn a_batch_that_ends_early_keeps_the_count_of_crashes(bench: Bench) {
    jobs(&bench.db, 3).await;
    let died = format!(
        "INSERT INTO service_claim (work_table, row_key, service_id, owner, expires_at, seq, crashes) \
         VALUES ('job', '1', 'mailer', '', {}, 0, 2)",
        Utc::now().timestamp_millis()
    );
    bench.db.execute_unprepared(&died).await.unwrap();
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    for committed in [true, false] {
        let mut batch = service_db.claim_each::<job::Entity>(10).await.unwrap();
        let item = batch.next().await.unwrap().unwrap();
        assert_ne!(item.model().id, 1, "the suspect goes last");
        item.settle(Ok::<_, Error>(())).await.unwrap();
        if committed {
            assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).again());
        } else {
            drop(batch);
            service_db.settle(Some("stopped short")).await.unwrap();
        }
        let select = "SELECT row_key, owner, crashes FROM service_claim";
        let left = Statement::from_string(bench.db.get_database_backend(), select);
        let left = bench.db.query_all_raw(left).await.unwrap();
        let left: Vec<(String, String, i64)> = left
            .iter()
            .map(|row| {
                (
                    row.try_get("", "row_key").unwrap(),
                    row.try_get("", "owner").unwrap(),
                    row.try_get("", "crashes").unwrap(),
                )
            })
            .collect();
        assert_eq!(left, [("1".to_owned(), String::new(), 2)]);
    }
    // Released at once, and deleted when its row is settled.
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(1));
    assert_eq!(claims(&bench).await, 0);
}

/// If they stayed, they would expire like those of a crashed process, and a row without fault would lose an attempt.
pub(crate) async fn claims_that_a_commit_could_not_release_are_released_later(bench: Bench) {
    jobs(&bench.db, 3).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let batch = service_db.claim_each::<job::Entity>(10).await.unwrap();
    bench.db.execute_unprepared("ALTER TABLE service_claim RENAME TO out_of_reach").await.unwrap();
    batch.commit().await.unwrap_err();
    bench.db.execute_unprepared("ALTER TABLE out_of_reach RENAME TO service_claim").await.unwrap();
    service_db.settle(Some("the database was away")).await.unwrap();
    assert_eq!(claims(&bench).await, 0);
    assert_eq!(work(&service_db, 10).await.unwrap(), Outcome::processed(3));
}

/// The same for the claim of a single item, whose row stays as it was: no process has died over it.
pub(crate) async fn the_claim_of_an_item_that_could_not_be_released_is_released_later(bench: Bench) {
    jobs(&bench.db, 2).await;
    let kept = if bench.is_postgres() {
        "CREATE RULE keep AS ON UPDATE TO job WHERE OLD.id = 1 DO INSTEAD NOTHING"
    } else {
        "CREATE TRIGGER keep BEFORE UPDATE ON job WHEN OLD.id = 1 BEGIN SELECT RAISE(FAIL, 'not so'); END"
    };
    bench.db.execute_unprepared(kept).await.unwrap();
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let mut batch = service_db.claim_each::<job::Entity>(10).await.unwrap();
    let item = batch.next().await.unwrap().unwrap();
    bench.db.execute_unprepared("ALTER TABLE service_claim RENAME TO out_of_reach").await.unwrap();
    item.settle(Err::<(), _>("no")).await.unwrap();
    bench.db.execute_unprepared("ALTER TABLE out_of_reach RENAME TO service_claim").await.unwrap();
    batch.next().await.unwrap().unwrap().settle(Ok::<_, Error>(())).await.unwrap();
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(1).failed(1));
    service_db.settle(None).await.unwrap();
    assert_eq!(claims(&bench).await, 0);
}

pub(crate) async fn keys_of_two_columns_and_uuids_are_claimed_too(bench: Bench) {
    create(&bench.db, plain::Entity).await;
    create(&bench.db, ticket::Entity).await;
    let rows = [("b", 1), ("a", 2), ("a", 1)].map(|(station, day)| plain::ActiveModel {
        station: Set(station.into()),
        day: Set(day),
        state: Set(plain::Status::Pending),
    });
    plain::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    let rows = (0..3).map(|n| ticket::ActiveModel {
        id: Set(sea_orm::prelude::Uuid::from_u128(n)),
        status: Set("pending".into()),
        error: Set(String::new()),
    });
    ticket::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let (mut first, mut second) = (
        service_db.claim_each::<plain::Entity>(2).await.unwrap(),
        service_db.claim_each::<plain::Entity>(2).await.unwrap(),
    );
    assert_eq!((first.remaining(), second.remaining()), (2, 1), "each has its own claims");
    let mut seen = Vec::new();
    while let Some(item) = first.next().await.unwrap() {
        seen.push((item.model().station.clone(), item.model().day));
        let result = if seen.len() == 1 { Ok(()) } else { Err("no") };
        item.settle(result).await.unwrap();
    }
    assert_eq!(seen, [("a".to_owned(), 1), ("a".to_owned(), 2)]);
    assert_eq!(first.commit().await.unwrap(), Outcome::processed(1).failed(1).again());
    second.next().await.unwrap().unwrap().settle(Ok::<_, Error>(())).await.unwrap();
    assert_eq!(second.commit().await.unwrap(), Outcome::processed(1));

    let mut batch = service_db.claim_each::<ticket::Entity>(2).await.unwrap();
    while let Some(item) = batch.next().await.unwrap() {
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    assert_eq!(batch.commit().await.unwrap(), Outcome::processed(2).again());
    let left = ticket::Entity::find().filter(ticket::Column::Status.eq("pending")).all(&bench.db).await.unwrap();
    assert_eq!((left.len(), left[0].id.as_u128()), (1, 2));
    assert_eq!(claims(&bench).await, 0);
}

/// More rows than an engine accepts values in one statement.
pub(crate) async fn a_batch_may_be_of_any_size(bench: Bench) {
    jobs(&bench.db, 11_000).await;
    let service_db = ServiceDb::new(bench.db.clone(), "mailer");
    let mut batch = service_db.claim_each::<job::Entity>(20_000).await.unwrap();
    assert_eq!((batch.remaining(), claims(&bench).await), (11_000, 11_000));
    assert_eq!(batch.next().await.unwrap().unwrap().model().id, 1);
    drop(batch);
    service_db.settle(None).await.unwrap();
    assert_eq!(claims(&bench).await, 0);
}

pub(crate) async fn many_workers_repeat_nothing(bench: Bench) {
    jobs(&bench.db, 120).await;
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let service_db = ServiceDb::new(bench.db.clone(), format!("mailer{n}"));
            tokio::spawn(async move { while work(&service_db, 7).await.unwrap().has_more() {} })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let last = ServiceDb::new(bench.db.clone(), "last");
    while work(&last, 50).await.unwrap() != Outcome::idle() {}
    assert_eq!(effects(&bench.db).await, (1..=120).collect::<Vec<_>>());
    assert_eq!(claims(&bench).await, 0);
}
