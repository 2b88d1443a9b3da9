//! A test bed with a real database on virtual time.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use service_core::database::{Override, set_override};
use service_core::prelude::*;

use crate::support::secs;

/// Inserts one row per run, and sleeps half a second of virtual time within the transaction.
#[derive(Default)]
struct Inserter;

#[service(interval = 30, discover = false)]
impl Inserter {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let tx = cx.begin().await?;
        tx.execute_unprepared("insert into note (text) values ('written')").await?;
        cx.sleep(Duration::from_millis(500)).await;
        tx.commit().await?;
        Ok(Outcome::processed(1))
    }
}

async fn count(db: &DatabaseConnection) -> i64 {
    let count = Statement::from_string(db.get_database_backend(), "select count(*) as n from note");
    db.query_one_raw(count).await.unwrap().unwrap().try_get("", "n").unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_hour_with_a_database_passes_in_seconds() {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    db.execute_unprepared("create table note (text text not null)").await.unwrap();
    let service = bed.start_of::<Inserter>().await;
    bed.run_for(secs(600)).await;
    assert_eq!(service.health().runs, 21);
    assert_eq!(service.health().error_count, 0);
    assert_eq!(service.run_now().await.unwrap().processed(), 1);
    assert_eq!(count(&db).await, 22);
    service.stop().await.unwrap();
    assert_eq!(service.state(), ServiceState::Stopped);
}

/// Continues where the last run stopped, also in another instance.
#[derive(Default)]
struct Following;

#[service(interval = 60, discover = false)]
impl Following {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let cursor: u64 = cx.store().get("cursor").await?.unwrap_or_default();
        cx.store().set("cursor", &(cursor + 1)).await?;
        Ok(Outcome::processed(cursor))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_value_outlives_its_instance() {
    let bed = TestBed::new();
    bed.sqlite().await;
    let service = bed.start_of::<Following>().await;
    bed.run_for(secs(130)).await;
    service.stop().await.unwrap();
    service.start().await.unwrap();
    bed.run_for(secs(1)).await;
    assert_eq!(service.health().total_processed, 6, "0 + 1 + 2, and 3 after the new start");
}

#[tokio::test(start_paused = true)]
async fn without_a_database_the_error_says_what_to_write() {
    let bed = TestBed::new();
    let report = bed.update(&mut Following).await;
    let error = report.error().unwrap().to_string();
    assert!(error.contains("`following`") && error.contains(".database_url("), "{error}");
}

/// On real time, because the bed connects while it is being built.
#[tokio::test]
async fn services_that_are_started_at_the_same_time_share_one_registry() {
    let bed = TestBed::new().with(|builder| builder.database_url("sqlite::memory:"));
    let (one, other) = tokio::join!(bed.start_of::<Following>(), bed.start_of::<Following>());
    assert_eq!((one.state(), other.state()), (ServiceState::Running, ServiceState::Running));
    let mut ids = [one.id(), other.id()];
    ids.sort_unstable();
    assert_eq!(bed.services().await.list(), ids);
}

/// On real time, because the bed connects while it is being built.
#[tokio::test]
async fn a_start_that_is_dropped_does_not_break_the_bed() {
    let bed = TestBed::new().with(|builder| builder.database_url("sqlite::memory:"));
    {
        let mut start = std::pin::pin!(bed.start_of::<Following>());
        let pending = std::future::poll_fn(|task| std::task::Poll::Ready(start.as_mut().poll(task).is_pending())).await;
        assert!(pending, "the bed connects");
    }
    let following = bed.start_of::<Following>().await;
    assert_eq!(following.state(), ServiceState::Running);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the bed has a database already")]
async fn a_bed_has_one_database() {
    let bed = TestBed::new();
    bed.sqlite().await;
    bed.sqlite().await;
}

/// From the second run on, has more to do without an end.
#[derive(Default)]
struct Endless;

#[service(interval = 60, discover = false)]
impl Endless {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let run = cx.run_number();
        if run.is_multiple_of(16) {
            cx.store().set("run", &run).await?;
        }
        Ok(if run == 1 { Outcome::idle() } else { Outcome::processed(1).again() })
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service `endless` keeps virtual time from moving")]
async fn endless_runs_that_begin_at_the_end_end_run_for() {
    let bed = TestBed::new();
    bed.sqlite().await;
    bed.start_of::<Endless>().await;
    bed.run_for(secs(60)).await;
}

/// Stores a value in its own transaction.
#[derive(Default)]
struct Storing;

#[service(interval = 60, discover = false)]
impl Storing {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        let tx = cx.begin().await?;
        cx.store().set_in(&tx, "cursor", &1).await?;
        tx.commit().await
    }
}

/// Has a shorter interval of its own since its first run.
#[derive(Default)]
struct Hurrying;

#[service(interval = 60, discover = false)]
impl Hurrying {
    async fn update(&mut self, cx: &Context) {
        if cx.run_number() == 1 {
            cx.set_interval(secs(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_override_with_the_configured_interval_replaces_the_one_that_the_service_itself_has_set() {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    let service = bed.start_of::<Hurrying>().await;
    bed.run_for(secs(30)).await;
    assert_eq!(service.explain().schedule, "every 1s");
    set_override(&db, &Override::new("hurrying", "interval", "1m")).await.unwrap();
    bed.run_for(secs(30)).await;
    let runs = service.health().runs;
    assert_eq!(service.explain().schedule, "every 1m");
    bed.run_for(secs(120)).await;
    assert_eq!(service.health().runs, runs + 2);
}

#[tokio::test(start_paused = true)]
async fn the_tables_of_the_framework_are_there_at_once() {
    let bed = TestBed::new();
    let db = bed.sqlite().await;
    let report = bed.update(&mut Storing).await;
    assert!(report.error().is_none(), "{report:?}");
    set_override(&db, &Override::new("storing", "interval", 5)).await.unwrap();
    let service = bed.start_of::<Storing>().await;
    bed.run_for(secs(59)).await;
    assert_eq!(service.health().runs, 12);
}
