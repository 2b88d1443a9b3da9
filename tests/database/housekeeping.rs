//! Failed rows that are tried again, and completed rows that are deleted after a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, Set,
    Statement, TransactionTrait,
};
use service_core::__private::database::{ServiceDb, WallClock};
use service_core::database::retry_failed;
use service_core::prelude::*;

use crate::Bench;
use crate::tables::{create, job, jobs, plain, statuses};

/// Completed rows are kept for 30 days.
mod parcel {
    use sea_orm::entity::prelude::*;
    use service_core::database::WorkItem;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, WorkItem)]
    #[sea_orm(table_name = "parcel")]
    #[work_item(status = "status", updated_at = "updated_at", retain_completed = "30d")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) id: i64,
        pub(crate) status: String,
        pub(crate) updated_at: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

const NOW: i64 = 1_800_000_000;

fn at(days: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap() + TimeDelta::days(days)
}

async fn parcel(db: &DatabaseConnection, id: i64, status: &str, updated_at: Option<DateTime<Utc>>) {
    let row = parcel::ActiveModel { id: Set(id), status: Set(status.into()), updated_at: Set(updated_at) };
    parcel::Entity::insert(row).exec_without_returning(db).await.unwrap();
}

async fn parcels(db: &DatabaseConnection) -> Vec<i64> {
    let rows = parcel::Entity::find().order_by_asc(parcel::Column::Id).all(db).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// A replica of a registry, whose services have claimed from the table.
async fn replica(bench: &Bench, seconds: &Arc<AtomicI64>) -> ServiceDb {
    let seconds = Arc::clone(seconds);
    let clock = WallClock::new(move || DateTime::from_timestamp(seconds.load(Ordering::SeqCst), 0).unwrap());
    let replica = ServiceDb::new(bench.db.clone(), "mailer").with_clock(clock);
    let _ = replica.claim::<parcel::Entity>(1).for_each(async |_| ()).await.unwrap();
    replica
}

pub(crate) async fn failed_rows_are_tried_again_as_if_they_were_new(bench: Bench) {
    jobs(&bench.db, 6).await;
    let failed =
        "UPDATE job SET status = 'failed', attempts = 3, error_message = 'refused', due = updated_at WHERE id <= 4";
    bench.db.execute_unprepared(failed).await.unwrap();
    bench.db.execute_unprepared("UPDATE job SET status = 'completed', attempts = 1 WHERE id = 5").await.unwrap();
    let some = job::Column::Id.is_in([2, 3, 5, 6]);
    assert_eq!(retry_failed::<job::Entity>(&bench.db, some).await.unwrap(), 2);
    assert_eq!(statuses(&bench.db).await, ["failed", "pending", "pending", "failed", "completed", "pending"]);
    let row = crate::tables::job(&bench.db, 2).await;
    assert_eq!((row.attempts, row.error_message, row.due), (0, None, None));
    assert!(row.updated_at > crate::tables::job(&bench.db, 1).await.updated_at);
    let untouched = crate::tables::job(&bench.db, 1).await;
    assert_eq!((untouched.attempts, untouched.error_message.as_deref()), (3, Some("refused")));
    assert_eq!(crate::tables::job(&bench.db, 5).await.attempts, 1);
    let all = sea_orm::Condition::all();
    assert_eq!(retry_failed::<job::Entity>(&bench.db, all.clone()).await.unwrap(), 2);
    assert_eq!(retry_failed::<job::Entity>(&bench.db, all).await.unwrap(), 0);
    let worked = ServiceDb::new(bench.db.clone(), "worker").claim::<job::Entity>(10).for_each(async |_| ()).await;
    assert_eq!(worked.unwrap(), Outcome::processed(5));
}

/// A transaction that another program forgot holds a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_locked_row_keeps_no_other_from_being_deleted() {
    let Some(bench) = Bench::postgres().await else { return };
    create(&bench.db, parcel::Entity).await;
    for id in 1..=3 {
        parcel(&bench.db, id, "completed", Some(at(-31))).await;
    }
    let forgotten = bench.db.begin().await.unwrap();
    forgotten.execute_unprepared("SELECT 1 FROM parcel WHERE id = 2 FOR SHARE").await.unwrap();
    let replica = replica(&bench, &Arc::new(AtomicI64::new(NOW))).await;
    assert_eq!(replica.delete_retained().await, 2);
    assert_eq!(parcels(&bench.db).await, [2]);
    forgotten.rollback().await.unwrap();
}

/// No statement changes more than a thousand rows, and none of them twice.
pub(crate) async fn many_failed_rows_are_changed_in_portions(bench: Bench) {
    jobs(&bench.db, 2_500).await;
    bench.db.execute_unprepared("UPDATE job SET status = 'failed'").await.unwrap();
    // Counts the changes of each row; on PostgreSQL also the rows of each statement.
    bench.db.execute_unprepared("CREATE TABLE change (row_id BIGINT NOT NULL, n BIGINT NOT NULL)").await.unwrap();
    let trigger = if bench.is_postgres() {
        "CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN \
         INSERT INTO change SELECT id, count(*) OVER () FROM changed; RETURN NULL; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER note AFTER UPDATE ON job REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note()"
    } else {
        "CREATE TRIGGER note AFTER UPDATE ON job BEGIN INSERT INTO change VALUES (new.id, 1); END"
    };
    bench.db.execute_unprepared(trigger).await.unwrap();
    assert_eq!(retry_failed::<job::Entity>(&bench.db, job::Column::Id.ne(77)).await.unwrap(), 2_499);
    let pending = job::Entity::find().filter(job::Column::Status.eq("pending")).count(&bench.db).await.unwrap();
    assert_eq!(pending, 2_499);
    let number = async |sql: &str| -> i64 {
        let select = Statement::from_string(bench.db.get_database_backend(), sql);
        bench.db.query_one_raw(select).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    };
    assert_eq!(number("SELECT count(*) FROM change").await, 2_499);
    assert_eq!(number("SELECT count(DISTINCT row_id) FROM change").await, 2_499);
    assert!(number("SELECT max(n) FROM change").await <= 1_000);
}

/// Rows that fail again at once, or that a trigger keeps `failed`, do not keep the function busy forever.
pub(crate) async fn rows_that_stay_failed_are_changed_once(bench: Bench) {
    jobs(&bench.db, 1_500).await;
    bench.db.execute_unprepared("UPDATE job SET status = 'failed'").await.unwrap();
    let trigger = if bench.is_postgres() {
        "CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN new.status = 'failed'; RETURN new; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER fail BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION fail()"
    } else {
        "CREATE TRIGGER fail AFTER UPDATE ON job WHEN new.status = 'pending' \
         BEGIN UPDATE job SET status = 'failed' WHERE id = new.id; END"
    };
    bench.db.execute_unprepared(trigger).await.unwrap();
    let all = retry_failed::<job::Entity>(&bench.db, sea_orm::Condition::all());
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("it ends").unwrap();
}

pub(crate) async fn keys_of_two_columns_are_tried_again_in_portions(bench: Bench) {
    create(&bench.db, plain::Entity).await;
    let rows = (0..450).map(|n| plain::ActiveModel {
        station: Set(format!("station {}", n % 7)),
        day: Set(n),
        state: Set(if n % 45 == 0 { plain::Status::Completed } else { plain::Status::Failed }),
    });
    plain::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    let some = plain::Column::Day.gte(10);
    assert_eq!(retry_failed::<plain::Entity>(&bench.db, some).await.unwrap(), 431);
    let left = plain::Entity::find().filter(plain::Column::State.eq(plain::Status::Failed)).count(&bench.db).await;
    assert_eq!(left.unwrap(), 9);
}

pub(crate) async fn completed_rows_are_deleted_after_their_time(bench: Bench) {
    create(&bench.db, parcel::Entity).await;
    let old = Some(at(-30) - TimeDelta::seconds(1));
    for (id, status, updated_at) in [
        (1, "completed", old),
        (2, "completed", Some(at(-30))),
        (3, "completed", Some(at(-29))),
        (4, "completed", None),
        (5, "failed", old),
        (6, "parked", old),
    ] {
        parcel(&bench.db, id, status, updated_at).await;
    }
    if !bench.is_postgres() {
        // An older row, which another program has written with an offset of its own.
        let elsewhere = "INSERT INTO parcel VALUES (7, 'completed', '2026-12-16 08:59:59.5+01:00'), \
                         (8, 'completed', '2026-12-16T09:00:01+01:00')";
        bench.db.execute_unprepared(elsewhere).await.unwrap();
    }
    let replica = replica(&bench, &Arc::new(AtomicI64::new(NOW))).await;
    assert_eq!(replica.delete_retained().await, if bench.is_postgres() { 1 } else { 2 });
    let expected = if bench.is_postgres() { vec![2, 3, 4, 5, 6] } else { vec![2, 3, 4, 5, 6, 8] };
    assert_eq!(parcels(&bench.db).await, expected);
}

/// All replicas try, and each hour one of them deletes.
pub(crate) async fn one_replica_deletes_each_hour(bench: Bench) {
    create(&bench.db, parcel::Entity).await;
    let seconds = Arc::new(AtomicI64::new(NOW));
    for hour in 0..3 {
        let mut replicas = Vec::new();
        for _ in 0..4 {
            replicas.push(replica(&bench, &seconds).await);
        }
        parcel(&bench.db, hour, "completed", Some(at(-40))).await;
        let deleting: Vec<_> =
            replicas.into_iter().map(|replica| tokio::spawn(async move { replica.delete_retained().await })).collect();
        let mut deleted = Vec::new();
        for replica in deleting {
            deleted.push(replica.await.unwrap());
        }
        deleted.sort_unstable();
        assert_eq!(deleted, [0, 0, 0, 1]);
        // No replica has another turn for almost an hour.
        parcel(&bench.db, 100 + hour, "completed", Some(at(-40))).await;
        seconds.fetch_add(57 * 60, Ordering::SeqCst);
        assert_eq!(replica(&bench, &seconds).await.delete_retained().await, 0);
        bench.db.execute_unprepared("DELETE FROM parcel").await.unwrap();
        seconds.fetch_add(3 * 60, Ordering::SeqCst);
    }
}

/// No statement deletes more than a thousand rows, and one that cannot be deleted keeps no other.
pub(crate) async fn rows_are_deleted_in_portions_and_a_refused_one_keeps_no_other(bench: Bench) {
    let (log, _guard) = crate::log::Log::listen();
    create(&bench.db, parcel::Entity).await;
    for ids in (0..2_100).collect::<Vec<i64>>().chunks(700) {
        let rows = ids.iter().map(|id| parcel::ActiveModel {
            id: Set(*id),
            status: Set("completed".into()),
            updated_at: Set(Some(at(-31))),
        });
        parcel::Entity::insert_many(rows).exec_without_returning(&bench.db).await.unwrap();
    }
    let refers = "CREATE TABLE label (parcel BIGINT NOT NULL REFERENCES parcel (id))";
    bench.db.execute_unprepared(refers).await.unwrap();
    bench.db.execute_unprepared("INSERT INTO label VALUES (5), (1700)").await.unwrap();
    if bench.is_postgres() {
        let limit = "CREATE FUNCTION few() RETURNS trigger AS $$ BEGIN IF (SELECT count(*) > 1000 FROM gone) THEN \
                     RAISE EXCEPTION 'too many rows in one statement'; END IF; RETURN NULL; END $$ LANGUAGE plpgsql; \
                     CREATE TRIGGER few AFTER DELETE ON parcel REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION few()";
        bench.db.execute_unprepared(limit).await.unwrap();
    }
    let replica = replica(&bench, &Arc::new(AtomicI64::new(NOW))).await;
    assert_eq!(replica.delete_retained().await, 2_098);
    assert_eq!(parcels(&bench.db).await, [5, 1700]);
    let warnings: Vec<String> = log.warnings().into_iter().filter(|line| line.contains("refuses")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("refused=2") && warnings[0].contains("key=\"5\""), "{warnings:?}");
}

#[derive(Default)]
struct Packer;

#[service(interval = "10m", discover = false)]
impl Packer {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        cx.claim::<parcel::Entity>(10).for_each(async |_| ()).await
    }
}

/// In a registry nothing has to be called: on virtual time, as on real time.
async fn a_registry_deletes_every_hour(bed: TestBed, db: DatabaseConnection) {
    create(&db, parcel::Entity).await;
    parcel(&db, 1, "pending", None).await;
    let almost = at(-30) + TimeDelta::hours(2);
    parcel(&db, 2, "completed", Some(almost)).await;
    parcel(&db, 3, "failed", Some(almost)).await;
    let packer = bed.start_of::<Packer>().await;
    bed.run_for(Duration::from_secs(2 * 3_600 - 120)).await;
    assert_eq!((packer.health().total_processed, parcels(&db).await), (1, vec![1, 2, 3]));
    bed.run_for(Duration::from_secs(3_600 + 240)).await;
    assert_eq!(parcels(&db).await, [1, 3], "an hour after the 30 days have passed");
    assert_eq!(packer.health().error_count, 0);
}

#[tokio::test(start_paused = true)]
async fn on_sqlite_a_registry_deletes_every_hour() {
    let bed = TestBed::at(at(0));
    let db = bed.sqlite().await;
    a_registry_deletes_every_hour(bed, db).await;
}

#[tokio::test(start_paused = true)]
async fn on_postgres_a_registry_deletes_every_hour() {
    let Some(server) = tokio::task::spawn_blocking(crate::postgres::Postgres::shared).await.unwrap() else { return };
    let url = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let bed = TestBed::at(at(0));
    let db = bed.database_url(url).await;
    a_registry_deletes_every_hour(bed, db).await;
}

/// More rows are refused than one turn tries.
#[tokio::test(start_paused = true)]
async fn many_refused_rows_keep_no_other_for_ever() {
    let bed = TestBed::at(at(0));
    let db = bed.sqlite().await;
    create(&db, parcel::Entity).await;
    for ids in (0..3_200).collect::<Vec<i64>>().chunks(700) {
        let rows = ids.iter().map(|id| parcel::ActiveModel {
            id: Set(*id),
            status: Set("completed".into()),
            updated_at: Set(Some(at(-31))),
        });
        parcel::Entity::insert_many(rows).exec_without_returning(&db).await.unwrap();
    }
    db.execute_unprepared("CREATE TABLE label (parcel BIGINT NOT NULL REFERENCES parcel (id))").await.unwrap();
    db.execute_unprepared("INSERT INTO label SELECT id FROM parcel WHERE id < 2500").await.unwrap();
    bed.start_of::<Packer>().await;
    bed.run_for(Duration::from_secs(600)).await;
    assert_eq!(parcels(&db).await.len(), 3_200);
    bed.run_for(Duration::from_secs(2 * 3_600)).await;
    assert_eq!(parcels(&db).await.len(), 2_500);
}
