//! In which order rows are claimed: neither kind of rows starves the other, and times are instants.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, Order, QueryFilter, Statement};
use service_core::__private::database::{ServiceDb, WallClock};
use service_core::database::{self, WorkItem};
use service_core::{Error, Outcome};

use crate::Bench;
use crate::tables::{job, jobs, more_jobs};

fn hand_clock() -> (WallClock, Arc<AtomicI64>) {
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let shown = Arc::clone(&seconds);
    let clock = WallClock::new(move || DateTime::<Utc>::from_timestamp(shown.load(Ordering::SeqCst), 0).unwrap());
    (clock, seconds)
}

/// Claims up to `n` rows, completes them, and returns their keys in the order in which they were lent.
async fn take(service_db: &ServiceDb, each: bool, n: u64) -> Vec<i64> {
    let mut batch = match each {
        true => service_db.claim_each::<job::Entity>(n).await.unwrap(),
        false => service_db.claim::<job::Entity>(n).await.unwrap(),
    };
    let mut ids = Vec::new();
    while let Some(item) = batch.next().await.unwrap() {
        ids.push(item.model().id);
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    let _ = batch.commit().await.unwrap();
    ids
}

/// New rows come as fast as they can be processed. A row that failed once is tried again in its time.
pub(crate) async fn new_rows_do_not_starve_a_row_that_is_tried_again(bench: Bench) {
    for (each, size) in [(false, 5), (true, 5), (false, 1), (true, 1)] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 0).await;
        let (clock, time) = hand_clock();
        let service_db = ServiceDb::new(bench.db.clone(), "worker").with_clock(clock);
        let mut next = 1;
        for second in 0..20 {
            more_jobs(&bench.db, next..=next + 4).await;
            next += 5;
            for _ in 0..5 / size {
                let mut batch = match each {
                    true => service_db.claim_each::<job::Entity>(size).await.unwrap(),
                    false => service_db.claim::<job::Entity>(size).await.unwrap(),
                };
                while let Some(item) = batch.next().await.unwrap() {
                    let fails = item.model().id == 1 && second == 0;
                    item.settle(if fails { Err("not yet") } else { Ok(()) }).await.unwrap();
                }
                let _ = batch.commit().await.unwrap();
            }
            time.fetch_add(1, Ordering::SeqCst);
        }
        let row = crate::tables::job(&bench.db, 1).await;
        assert_eq!((row.status.as_str(), row.attempts), ("completed", 2), "{each} {size}");
        // And the other way round: retries do not starve new rows.
        let left = job::Entity::find().filter(job::Column::Status.eq("pending")).all(&bench.db).await.unwrap();
        assert!(left.len() <= 5, "{each} {size}: {}", left.len());
    }
}

/// Rows whose time has come, more than can be processed, leave half of the places to rows without a time.
pub(crate) async fn rows_with_a_time_do_not_starve_rows_without(bench: Bench) {
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 40).await;
        // The first 30 are late, the others have no time.
        let late = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).unwrap();
        let set = job::Entity::update_many().col_expr(job::Column::Due, sea_orm::sea_query::Expr::value(late));
        set.filter(job::Column::Id.lte(30)).exec(&bench.db).await.unwrap();
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let first = take(&service_db, each, 10).await;
        assert_eq!(first.iter().filter(|id| **id > 30).count(), 5, "{first:?}");
        let second = take(&service_db, each, 4).await;
        assert_eq!(second.iter().filter(|id| **id > 30).count(), 2, "{second:?}");
        // Three are left without a time: their unused places go to the others.
        let third = take(&service_db, each, 12).await;
        assert_eq!(third.iter().filter(|id| **id > 30).count(), 3, "{third:?}");
        assert_eq!(third.len(), 12);
        // Each kind in its own order.
        for ids in [first, second, third] {
            for kind in [false, true] {
                let of_kind: Vec<i64> = ids.iter().copied().filter(|id| (*id > 30) == kind).collect();
                assert!(of_kind.is_sorted(), "{ids:?}");
            }
        }
    }
}

/// Another worker holds many rows of one kind, before a backlog of the other kind: half of the places are left to each.
pub(crate) async fn rows_that_others_hold_starve_no_kind_of_rows(bench: Bench) {
    for holds_dated in [false, true] {
        for sql in ["DROP TABLE IF EXISTS job", "DROP TABLE IF EXISTS effect", "DELETE FROM service_claim"] {
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        jobs(&bench.db, 600).await;
        let late = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).unwrap();
        let set = job::Entity::update_many().col_expr(job::Column::Due, sea_orm::sea_query::Expr::value(late));
        set.filter(job::Column::Id.lte(300)).exec(&bench.db).await.unwrap();
        let is_held = if holds_dated { job::Column::Due.is_not_null() } else { job::Column::Due.is_null() };
        let holder = ServiceDb::new(bench.db.clone(), "holder");
        let held = holder.claim_each::<job::Entity>(100).filter(is_held).await.unwrap();
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        for _ in 0..4 {
            let ids = take(&service_db, true, 10).await;
            assert_eq!(ids.iter().filter(|id| **id > 300).count(), 5, "{holds_dated}: {ids:?}");
            assert_eq!(ids.len(), 10, "{holds_dated}: {ids:?}");
        }
        drop(held);
        holder.settle(None).await.unwrap();
    }
}

/// One row at a time: the kinds alternate.
pub(crate) async fn claims_of_one_row_alternate(bench: Bench) {
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 8).await;
        let late = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).unwrap();
        let set = job::Entity::update_many().col_expr(job::Column::Due, sea_orm::sea_query::Expr::value(late));
        set.filter(job::Column::Id.lte(4)).exec(&bench.db).await.unwrap();
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let mut ids = Vec::new();
        for _ in 0..8 {
            ids.extend(take(&service_db, each, 1).await);
        }
        assert_eq!(ids, [5, 1, 6, 2, 7, 3, 8, 4]);
    }
}

/// A run that claims twice from a table, each time with another condition: both claims get rows of both kinds.
pub(crate) async fn claims_with_different_conditions_starve_no_kind_of_rows(bench: Bench) {
    for each in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS job").await.unwrap();
        bench.db.execute_unprepared("DROP TABLE IF EXISTS effect").await.unwrap();
        jobs(&bench.db, 40).await;
        let late = DateTime::<Utc>::from_timestamp(1_700_000_000, 0).unwrap();
        let set = job::Entity::update_many().col_expr(job::Column::Due, sea_orm::sea_query::Expr::value(late));
        set.filter(job::Column::Id.between(11, 30)).exec(&bench.db).await.unwrap();
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let mut dated = [0, 0];
        for _ in 0..8 {
            for (low, dated) in dated.iter_mut().enumerate() {
                let condition = if low == 0 { job::Column::Id.lte(20) } else { job::Column::Id.gt(20) };
                let mut batch = match each {
                    true => service_db.claim_each::<job::Entity>(1).filter(condition).await.unwrap(),
                    false => service_db.claim::<job::Entity>(1).filter(condition).await.unwrap(),
                };
                let item = batch.next().await.unwrap().unwrap();
                *dated += i32::from(item.model().due.is_some());
                item.settle(Ok::<_, Error>(())).await.unwrap();
                let _ = batch.commit().await.unwrap();
            }
        }
        assert_eq!(dated, [4, 4], "{each}");
    }
}

pub(crate) async fn a_claim_may_be_of_any_size(bench: Bench) {
    jobs(&bench.db, 0).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    for each in [false, true] {
        for size in [0, u64::from(u32::MAX), i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX] {
            bench.db.execute_unprepared("DELETE FROM job").await.unwrap();
            more_jobs(&bench.db, 1..=3).await;
            assert_eq!(take(&service_db, each, size).await.len(), if size == 0 { 0 } else { 3 }, "{each} {size}");
        }
    }
}

/// Other types in which a table can keep times.
mod zoned {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "zoned")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) due: Option<DateTimeWithTimeZone>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod naive {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "naive")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) due: DateTime,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod seconds {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "seconds")]
    #[work_item(status = "status", available_at = "due")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) due: Option<ChronoUnixTimestamp>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn ids<E: WorkItem>(service_db: &ServiceDb, id: impl Fn(&E::Model) -> i64) -> Vec<i64> {
    let mut batch = service_db.claim::<E>(20).await.unwrap();
    let mut ids = Vec::new();
    while let Some(item) = batch.next().await.unwrap() {
        ids.push(id(item.model()));
        item.settle(Ok::<_, Error>(())).await.unwrap();
    }
    let _ = batch.commit().await.unwrap();
    ids.sort_unstable();
    ids
}

/// Whatever offset they were written with, and with the claim index and without.
pub(crate) async fn times_are_compared_as_instants(bench: Bench) {
    for index in [false, true] {
        for table in ["zoned", "naive", "seconds"] {
            bench.db.execute_unprepared(&format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
        }
        crate::tables::create(&bench.db, zoned::Entity).await;
        crate::tables::create(&bench.db, naive::Entity).await;
        crate::tables::create(&bench.db, seconds::Entity).await;
        if index {
            database::create_claim_index::<zoned::Entity>(&bench.db).await.unwrap();
            database::create_claim_index::<naive::Entity>(&bench.db).await.unwrap();
            database::create_claim_index::<seconds::Entity>(&bench.db).await.unwrap();
        }
        let now = Utc::now();
        let at = |minutes: i64, offset: i32| {
            let zone = chrono::FixedOffset::east_opt(offset * 3600).unwrap();
            (now + chrono::Duration::minutes(minutes)).with_timezone(&zone)
        };
        let rows =
            [(1, at(180, -5)), (2, at(-1, 2)), (3, at(-1, -11)), (4, at(1, 14)), (5, at(-600, 0)), (6, at(600, 0))];
        for (id, due) in rows {
            let model = zoned::ActiveModel {
                id: sea_orm::Set(id),
                status: sea_orm::Set("pending".into()),
                due: sea_orm::Set(Some(due)),
            };
            zoned::Entity::insert(model).exec_without_returning(&bench.db).await.unwrap();
            let model = naive::ActiveModel {
                id: sea_orm::Set(id),
                status: sea_orm::Set("pending".into()),
                due: sea_orm::Set(due.naive_utc()),
            };
            naive::Entity::insert(model).exec_without_returning(&bench.db).await.unwrap();
            let model = seconds::ActiveModel {
                id: sea_orm::Set(id),
                status: sea_orm::Set("pending".into()),
                due: sea_orm::Set(Some(sea_orm::prelude::ChronoUnixTimestamp(due.to_utc()))),
            };
            seconds::Entity::insert(model).exec_without_returning(&bench.db).await.unwrap();
        }
        if !bench.is_postgres() {
            // As people and other programs write them.
            let texts = [
                (11, "(now - 1 h)", (now - chrono::Duration::hours(1)).format("%Y-%m-%d %H:%M:%S").to_string()),
                (12, "(now - 1 h, Z)", (now - chrono::Duration::hours(1)).format("%Y-%m-%dT%H:%M:%SZ").to_string()),
                (13, "(now + 1 h, Z)", (now + chrono::Duration::hours(1)).format("%Y-%m-%dT%H:%M:%SZ").to_string()),
                (14, "(yesterday)", (now - chrono::Duration::days(2)).format("%Y-%m-%d 00:00:00+00:00").to_string()),
            ];
            for (id, _, text) in texts {
                let insert = format!("INSERT INTO zoned VALUES ({id}, 'pending', '{text}')");
                bench.db.execute_unprepared(&insert).await.unwrap();
            }
        }
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        let expected: &[i64] = if bench.is_postgres() { &[2, 3, 5] } else { &[2, 3, 5, 11, 12, 14] };
        assert_eq!(ids::<zoned::Entity>(&service_db, |row| row.id).await, expected, "{index}");
        assert_eq!(ids::<naive::Entity>(&service_db, |row| row.id).await, [2, 3, 5], "{index}");
        assert_eq!(ids::<seconds::Entity>(&service_db, |row| row.id).await, [2, 3, 5], "{index}");
        assert_eq!(ids::<zoned::Entity>(&service_db, |row| row.id).await, Vec::<i64>::new(), "{index}");
    }
}

/// Also where the claim names the column.
pub(crate) async fn an_order_by_the_time_is_an_order_of_instants(bench: Bench) {
    let due = |hours: i64, offset: i32| {
        let zone = chrono::FixedOffset::east_opt(offset * 3600).unwrap();
        (Utc::now() - chrono::Duration::hours(hours)).with_timezone(&zone)
    };
    crate::tables::create(&bench.db, zoned::Entity).await;
    for (order, expected) in [(Order::Asc, [3, 1, 2]), (Order::Desc, [2, 1, 3])] {
        for each in [false, true] {
            bench.db.execute_unprepared("DELETE FROM zoned").await.unwrap();
            for (id, due) in [(1, due(5, 2)), (2, due(4, -11)), (3, due(6, 14))] {
                let model = zoned::ActiveModel {
                    id: sea_orm::Set(id),
                    status: sea_orm::Set("pending".into()),
                    due: sea_orm::Set(Some(due)),
                };
                zoned::Entity::insert(model).exec_without_returning(&bench.db).await.unwrap();
            }
            let service_db = ServiceDb::new(bench.db.clone(), "worker");
            let mut batch = match each {
                true => {
                    service_db.claim_each::<zoned::Entity>(3).order_by(zoned::Column::Due, order.clone()).await.unwrap()
                }
                false => {
                    service_db.claim::<zoned::Entity>(3).order_by(zoned::Column::Due, order.clone()).await.unwrap()
                }
            };
            let mut ids = Vec::new();
            while let Some(item) = batch.next().await.unwrap() {
                ids.push(item.model().id);
                item.settle(Ok::<_, Error>(())).await.unwrap();
            }
            let _ = batch.commit().await.unwrap();
            assert_eq!(ids, expected, "{order:?} {each}");
        }
    }
}

/// SQLite counts milliseconds. A run that a row's time has woken must find the row.
#[tokio::test]
async fn on_sqlite_a_row_is_due_at_its_time_whatever_the_fraction() {
    let bench = Bench::sqlite().await;
    let base = DateTime::<Utc>::from_timestamp(1_800_000_059, 0).unwrap();
    for index in [false, true] {
        bench.db.execute_unprepared("DROP TABLE IF EXISTS zoned").await.unwrap();
        crate::tables::create(&bench.db, zoned::Entity).await;
        if index {
            database::create_claim_index::<zoned::Entity>(&bench.db).await.unwrap();
        }
        for (id, micros) in (1..).zip([0, 1, 499, 500, 501, 999, 123_500, 123_999, 998_500, 999_499, 999_500, 999_999])
        {
            let at = base + chrono::Duration::microseconds(micros);
            let row = zoned::ActiveModel {
                id: sea_orm::Set(id),
                status: sea_orm::Set("pending".into()),
                due: sea_orm::Set(Some(at.fixed_offset())),
            };
            zoned::Entity::insert(row).exec_without_returning(&bench.db).await.unwrap();
            let claimed_at = async |at: DateTime<Utc>| {
                let clock = WallClock::new(move || at);
                let service_db = ServiceDb::new(bench.db.clone(), "worker").with_clock(clock);
                ids::<zoned::Entity>(&service_db, |row| row.id).await
            };
            assert_eq!(claimed_at(at - chrono::Duration::milliseconds(2)).await, Vec::<i64>::new(), "{index} {micros}");
            assert_eq!(claimed_at(at).await, [id], "{index} {micros}");
        }
    }
}

/// Other programs may store times as seconds, as days, or in small letters. The driver reads all of these.
#[tokio::test]
async fn on_sqlite_numbers_and_small_letters_are_times() {
    let now = Utc::now();
    let text =
        |minutes: i64| (now + chrono::Duration::minutes(minutes)).to_rfc3339().replace('T', "t").replace("+00:00", "z");
    let seconds = |minutes: i64| (now.timestamp() + minutes * 60).to_string();
    // Never a whole number, which would be one of seconds.
    let days = |minutes: i64| (2_440_587.5 + ((now.timestamp() + minutes * 60) as f64 + 0.3) / 86_400.0).to_string();
    for index in ["none", "an earlier one", "the claim index"] {
        let bench = Bench::sqlite().await;
        // This type of a column keeps an integer as it is.
        let table = "CREATE TABLE zoned (id INTEGER PRIMARY KEY, status TEXT NOT NULL, due DATETIME)";
        bench.db.execute_unprepared(table).await.unwrap();
        if index != "none" {
            let earlier =
                "CREATE INDEX \"zoned_claim_idx\" ON zoned (julianday(\"due\"), \"id\") WHERE \"status\" = 'pending'";
            bench.db.execute_unprepared(earlier).await.unwrap();
        }
        if index == "the claim index" {
            database::create_claim_index::<zoned::Entity>(&bench.db).await.unwrap();
        }
        let dues = [
            format!("'{}'", text(-1)),
            format!("'{}'", text(180)),
            seconds(-1),
            seconds(180),
            days(-1),
            days(180),
            "NULL".to_owned(),
        ];
        for (id, due) in (1..).zip(dues) {
            let insert = format!("INSERT INTO zoned VALUES ({id}, 'pending', {due})");
            bench.db.execute_unprepared(&insert).await.unwrap();
        }
        let (log, _listening) = crate::log::Log::listen();
        let service_db = ServiceDb::new(bench.db.clone(), "worker");
        assert_eq!(ids::<zoned::Entity>(&service_db, |row| row.id).await, [1, 3, 5, 7], "{index}");
        let warnings = log.warnings();
        let advice = warnings.iter().find(|line| line.contains("no index serves"));
        assert_eq!(advice.is_some(), index != "the claim index", "{index}: {warnings:?}");
        if let Some(advice) = advice {
            let sql = advice.split_once("or run: ").unwrap().1.split(" service.id").next().unwrap();
            bench.db.execute_unprepared(sql).await.unwrap();
        }
        let indices = "SELECT count(*) AS n FROM sqlite_master WHERE type = 'index' AND tbl_name = 'zoned' AND sql LIKE '%unixepoch%'";
        let indices = Statement::from_string(sea_orm::DbBackend::Sqlite, indices);
        let indices: i64 = bench.db.query_one_raw(indices).await.unwrap().unwrap().try_get("", "n").unwrap();
        assert_eq!(indices, 1, "{index}");
    }
}

/// The index that the claims name may be dropped while the program runs, and made again.
pub(crate) async fn an_index_that_is_dropped_stops_no_claims(bench: Bench) {
    jobs(&bench.db, 6).await;
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    for each in [false, true] {
        assert_eq!(take(&service_db, each, 1).await.len(), 1);
        bench.db.execute_unprepared("DROP INDEX job_claim_idx").await.unwrap();
        assert_eq!(take(&service_db, each, 1).await.len(), 1);
        database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
        assert_eq!(take(&service_db, each, 1).await.len(), 1);
    }
}

/// An index of another schema does not count.
#[tokio::test]
async fn on_postgres_an_index_in_another_schema_does_not_count() {
    let Some(bench) = Bench::postgres().await else { return };
    jobs(&bench.db, 1).await;
    for sql in [
        "CREATE SCHEMA other",
        "CREATE TABLE other.job AS SELECT * FROM job",
        "CREATE INDEX job_claim_idx ON other.job (due, id) WHERE status = 'pending'",
    ] {
        bench.db.execute_unprepared(sql).await.unwrap();
    }
    let (log, _listening) = crate::log::Log::listen();
    let service_db = ServiceDb::new(bench.db.clone(), "worker");
    assert_eq!(take(&service_db, false, 10).await, [1]);
    let warnings = log.warnings();
    assert!(warnings.iter().any(|line| line.contains("no index serves")), "{warnings:?}");
}

/// A poll that finds nothing reads nothing, whatever the number of pending and completed rows is.
#[tokio::test]
async fn on_sqlite_an_idle_poll_reads_nothing() {
    let bench = Bench::sqlite().await;
    jobs(&bench.db, 0).await;
    database::create_claim_index::<job::Entity>(&bench.db).await.unwrap();
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
                INSERT INTO job (id, payload, status, attempts, due, updated_at) \
                SELECT i, 'x', CASE WHEN i % 3 = 0 THEN 'pending' ELSE 'completed' END, 0, \
                CASE WHEN i % 3 = 0 THEN '2999-01-01T00:00:00+00:00' END, '2026-01-01T00:00:00+00:00' FROM n";
    bench.db.execute_unprepared(fill).await.unwrap();
    for analyzed in [false, true] {
        if analyzed {
            bench.db.execute_unprepared("ANALYZE").await.unwrap();
        }
        for each in [false, true] {
            let service_db = ServiceDb::new(bench.db.clone(), "worker");
            assert_eq!(take(&service_db, each, 100).await, Vec::<i64>::new());
            // On a busy machine, too, some of them are not disturbed.
            let (mut poll, mut scan) = (Duration::MAX, Duration::MAX);
            for _ in 0..50 {
                let begun = std::time::Instant::now();
                let batch = match each {
                    true => service_db.claim_each::<job::Entity>(100).await.unwrap(),
                    false => service_db.claim::<job::Entity>(100).await.unwrap(),
                };
                assert_eq!(batch.commit().await.unwrap(), Outcome::idle());
                poll = poll.min(begun.elapsed());
                let begun = std::time::Instant::now();
                bench.db.execute_unprepared("SELECT sum(length(payload)) FROM job").await.unwrap();
                scan = scan.min(begun.elapsed());
            }
            // To read all rows that are pending, a third of the table, takes longer than that.
            assert!(poll * 4 < scan, "{analyzed} {each}: {poll:?}, and {scan:?} to read the table");
        }
    }
    let count = Statement::from_string(sea_orm::DbBackend::Sqlite, "SELECT count(*) AS n FROM job");
    let count: i64 = bench.db.query_one_raw(count).await.unwrap().unwrap().try_get("", "n").unwrap();
    assert_eq!(count, 60_000);
}
