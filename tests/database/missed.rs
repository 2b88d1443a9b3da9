//! Which cron fires are missed: those that come due while no process is up. Not those that a manual stop, a pause or
//! another schedule skips.
//!
//! Each process of a test is a runtime with a test bed of its own, so that hours pass in moments. It is killed: its
//! runtime is dropped. On real processes, see `catch_up`.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use service_core::database::{Override, remove_override, set_override};
use service_core::prelude::*;
use service_core::testing::TestBed;

/// Fires every hour.
#[derive(Default)]
struct Hourly;

#[service(cron = "0 * * * *", catch_up = "all", discover = false)]
impl Hourly {
    async fn update(&mut self) {}
}

/// Takes ten minutes.
#[derive(Default)]
struct Long;

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", drain_timeout = "1h", discover = false)]
impl Long {
    async fn update(&mut self) {
        tokio::time::sleep(minutes(10)).await;
    }
}

/// Fails while it is told to.
struct Failing(bool);

#[service(
    name = "hourly",
    cron = "0 * * * *",
    catch_up = "all",
    max_failures = 0,
    exhausted = "fail",
    discover = false
)]
impl Failing {
    async fn update(&mut self) -> Result {
        if self.0 { Err(Error::msg("refused")) } else { Ok(()) }
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-03-02T{time}:00Z").parse().unwrap()
}

/// A process that is up from this time of the day on, until `work` ends and it is killed.
pub(crate) fn process<T>(
    url: &str,
    from: &str,
    settings: &[(&str, &str)],
    work: impl AsyncFnOnce(&TestBed, &DatabaseConnection) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bed = TestBed::at(SystemTime::from(at(from)));
        for (key, value) in settings {
            bed = bed.set(key, *value);
        }
        let db = bed.database_url(url).await;
        work(&bed, &db).await
    })
}

/// A process that serves its fires for this long, and is killed. Returns how often it ran.
fn serves(url: &str, from: &str, settings: &[(&str, &str)], during: Duration) -> u64 {
    process(url, from, settings, async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(during).await;
        service.health().runs
    })
}

/// Each case is a `fn(&str)` with the URL of an empty database. It becomes a test on each engine.
macro_rules! on_each {
    ($($case:ident),+ $(,)?) => {
        mod on_sqlite { $(
            #[test]
            fn $case() {
                let dir = tempfile::tempdir().unwrap();
                super::$case(&format!("sqlite:{}", dir.path().join("test.db").display()));
            }
        )+ }
        mod on_postgres { $(
            #[test]
            fn $case() {
                if let Some(server) = crate::postgres::Postgres::shared() {
                    super::$case(&server.database());
                }
            }
        )+ }
    };
}

on_each! {
    fires_that_no_process_served_are_made_up,
    a_changed_schedule_catches_up_nothing,
    a_changed_time_zone_catches_up_nothing,
    fires_under_a_schedule_of_another_kind_are_not_missed,
    an_override_of_the_schedule_counts_from_then_on,
    a_stop_makes_nothing_missed,
    a_stop_makes_nothing_missed_for_the_next_process,
    a_stop_during_which_the_clock_is_set_makes_nothing_missed,
    a_service_that_stops_itself_misses_nothing,
    a_single_run_after_a_stop_makes_nothing_missed,
    a_process_that_only_makes_single_runs_serves_nothing,
    a_pause_makes_nothing_missed,
    a_pause_makes_nothing_missed_for_the_next_process,
    an_override_that_pauses_makes_nothing_missed,
    a_pause_that_was_set_while_no_process_was_up_counts_from_then_on,
    what_a_stop_interrupts_is_made_up_and_no_more,
    what_a_pause_interrupts_is_made_up_and_no_more,
    a_fire_that_comes_due_during_the_shutdown_is_made_up,
    after_a_failure_the_failed_fire_is_repeated_and_no_more,
    a_retry_is_not_lost_in_a_pause,
    a_fire_that_was_due_in_a_pause_is_marked_once,
}

fn fires_that_no_process_served_are_made_up(url: &str) {
    assert_eq!(serves(url, "08:30", &[], hours(2)), 2, "at 9 and 10");
    assert_eq!(serves(url, "13:30", &[], minutes(1)), 3, "11, 12 and 13");
    assert_eq!(serves(url, "16:30", &[("catch_up", "latest")], minutes(1)), 1);
    assert_eq!(serves(url, "18:30", &[("catch_up", "none")], minutes(1)), 0);
    assert_eq!(serves(url, "18:30", &[], minutes(1)), 2);
}

fn a_changed_schedule_catches_up_nothing(url: &str) {
    assert_eq!(serves(url, "08:30", &[], hours(2)), 2);
    for catch_up in ["all", "latest"] {
        let daily = [("cron", "15 2 * * *"), ("catch_up", catch_up)];
        assert_eq!(serves(url, "12:30", &daily, minutes(1)), 0);
    }
    let every_two_hours = [("cron", "0 */2 * * *")];
    assert_eq!(serves(url, "13:30", &every_two_hours, hours(1)), 1, "at 14");
    assert_eq!(serves(url, "18:30", &every_two_hours, minutes(1)), 2, "16 and 18: the schedule has not changed again");
    // The same schedule in other words of the configuration.
    assert_eq!(serves(url, "20:30", &[("cron", " 0  */2 * * * ")], minutes(1)), 1);
}

fn a_changed_time_zone_catches_up_nothing(url: &str) {
    assert_eq!(serves(url, "08:30", &[("timezone", "Europe/Berlin")], hours(2)), 2);
    // There, hours begin at half past.
    assert_eq!(serves(url, "12:45", &[("timezone", "Asia/Kolkata")], minutes(1)), 0);
    assert_eq!(serves(url, "14:45", &[("timezone", "Asia/Kolkata")], minutes(1)), 2);
    assert_eq!(serves(url, "16:45", &[], minutes(1)), 0);
}

fn fires_under_a_schedule_of_another_kind_are_not_missed(url: &str) {
    assert_eq!(serves(url, "08:30", &[], hours(2)), 2);
    assert!(serves(url, "10:40", &[("interval", "60s")], hours(3)) >= 3);
    assert_eq!(serves(url, "13:50", &[], minutes(1)), 0);
    assert_eq!(serves(url, "16:10", &[], minutes(1)), 3, "14, 15 and 16");
    // Also if the schedule changes, and changes back, while the process is up.
    process(url, "16:20", &[], async |bed, db| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(minutes(1)).await;
        set_override(db, &Override::new("hourly", "interval", "60s")).await.unwrap();
        bed.run_for(hours(3)).await;
        assert!(service.health().runs >= 3);
        remove_override(db, "hourly", "interval").await.unwrap();
        bed.run_for(minutes(1)).await;
    });
    assert_eq!(serves(url, "19:30", &[], minutes(1)), 0);
    assert_eq!(serves(url, "20:30", &[], minutes(1)), 1, "20");
    // Also if the process has begun with the other one.
    process(url, "20:40", &[], async |bed, db| {
        set_override(db, &Override::new("hourly", "interval", "60s")).await.unwrap();
        bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        remove_override(db, "hourly", "interval").await.unwrap();
        bed.run_for(minutes(1)).await;
    });
    assert_eq!(serves(url, "22:30", &[], minutes(1)), 1, "22");
}

fn an_override_of_the_schedule_counts_from_then_on(url: &str) {
    process(url, "08:30", &[], async |bed, db| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        let cron = Override::new("hourly", "cron", "30 * * * *").by("ann");
        set_override(db, &cron).await.unwrap();
        bed.run_for(minutes(15)).await;
        assert_eq!(service.health().runs, 1, "at 9");
    });
    // Killed at 9:45, before the new schedule has fired.
    assert_eq!(serves(url, "12:10", &[], minutes(1)), 2, "10:30 and 11:30");
}

fn a_stop_makes_nothing_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.stop().await.unwrap();
        bed.run_for(hours(5)).await;
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1, "at 9");
        bed.run_for(hours(1)).await;
        assert_eq!(service.health().runs, 2, "at 9 and 15");
    });
    assert_eq!(serves(url, "17:30", &[], minutes(1)), 2, "16 and 17");
}

fn a_stop_makes_nothing_missed_for_the_next_process(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.stop().await.unwrap();
        bed.run_for(hours(5)).await;
    });
    // Killed at 14:30.
    assert_eq!(serves(url, "17:30", &[], minutes(1)), 3, "15, 16 and 17");
}

fn a_single_run_after_a_stop_makes_nothing_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.stop().await.unwrap();
        bed.run_for(hours(1)).await;
        assert!(bed.services().await.run_once("hourly").await.unwrap().error().is_none());
        bed.run_for(hours(2)).await;
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 2, "at 9, and the single run");
        service.stop().await.unwrap();
        assert!(bed.services().await.run_once("hourly").await.unwrap().error().is_none());
        bed.run_for(hours(2)).await;
    });
    // Killed at 14:31.
    assert_eq!(serves(url, "17:30", &[], minutes(1)), 3, "15, 16 and 17");
}

fn a_process_that_only_makes_single_runs_serves_nothing(url: &str) {
    assert_eq!(serves(url, "08:30", &[], hours(2)), 2, "at 9 and 10");
    process(url, "12:30", &[], async |bed, _| {
        let services = bed.services().await;
        let service = services.register_of::<Hourly>("hourly").await.unwrap();
        assert!(services.run_once("hourly").await.unwrap().error().is_none());
        assert_eq!(service.health().runs, 1);
    });
    assert_eq!(serves(url, "13:30", &[], minutes(1)), 3, "11, 12 and 13");
}

/// Stops after its first run.
#[derive(Default)]
struct Once;

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", discover = false)]
impl Once {
    async fn update(&mut self, cx: &Context) {
        cx.stop();
    }
}

/// Also after a suspend, during which the clock goes on.
fn a_stop_during_which_the_clock_is_set_makes_nothing_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.stop().await.unwrap();
        bed.set_wall_clock(SystemTime::from(at("12:30"))).await;
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1, "at 9");
        service.stop().await.unwrap();
        bed.set_wall_clock(SystemTime::from(at("14:30"))).await;
        bed.run_for(minutes(1)).await;
    });
    // Killed at 14:31.
    assert_eq!(serves(url, "17:30", &[], minutes(1)), 3, "15, 16 and 17");
}

fn a_service_that_stops_itself_misses_nothing(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Once>().await;
        bed.run_for(hours(5)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Stopped, 1));
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1);
        service.stop().await.unwrap();
        bed.run_for(hours(1)).await;
    });
    // Killed at 14:31.
    assert_eq!(serves(url, "16:30", &[], minutes(1)), 2, "15 and 16");
}

fn a_pause_makes_nothing_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.pause().await.unwrap();
        bed.run_for(hours(5)).await;
        service.resume().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 2, "at 9, and one run that is due");
    });
    assert_eq!(serves(url, "16:30", &[], minutes(1)), 2, "15 and 16");
}

fn a_pause_makes_nothing_missed_for_the_next_process(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        service.pause().await.unwrap();
        bed.run_for(hours(5)).await;
    });
    // Killed at 14:30. A pause by the handle ends with its process.
    assert_eq!(serves(url, "17:30", &[], minutes(1)), 3, "15, 16 and 17");
}

/// An override is recorded as set now, by the database's clock, which is not the bed's.
async fn set_at(db: &DatabaseConnection, time: &str) {
    let sql = format!("UPDATE service_override SET set_at = '2026-03-02T{time}:00.000000Z'");
    db.execute_unprepared(&sql).await.unwrap();
}

fn an_override_that_pauses_makes_nothing_missed(url: &str) {
    process(url, "08:30", &[], async |bed, db| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        set_override(db, &Override::new("hourly", "paused", true)).await.unwrap();
        set_at(db, "09:30").await;
        bed.run_for(hours(2)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Paused, 1));
    });
    // Killed at 11:30, paused the whole time.
    process(url, "15:30", &[], async |bed, db| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        assert_eq!(service.state(), ServiceState::Paused);
        remove_override(db, "hourly", "paused").await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1, "the one that is due since 16");
    });
    assert_eq!(serves(url, "18:30", &[], minutes(1)), 2, "17 and 18");
}

fn a_pause_that_was_set_while_no_process_was_up_counts_from_then_on(url: &str) {
    assert_eq!(serves(url, "08:30", &[], hours(1)), 1);
    process(url, "12:30", &[], async |bed, db| {
        set_override(db, &Override::new("hourly", "paused", true)).await.unwrap();
        set_at(db, "11:30").await;
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(minutes(10)).await;
        assert_eq!(service.health().runs, 0);
        remove_override(db, "hourly", "paused").await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 2, "10 and 11");
    });
}

fn what_a_stop_interrupts_is_made_up_and_no_more(url: &str) {
    assert_eq!(serves(url, "00:30", &[], hours(1)), 1);
    process(url, "07:05", &[], async |bed, _| {
        let service = bed.start_of::<Long>().await;
        // Six were missed, of which two are made up in 20 minutes, and the third is in progress.
        bed.run_for(minutes(25)).await;
        assert_eq!(service.health().runs, 3);
        service.stop().await.unwrap();
        // From 7:35 to 12:05.
        bed.run_for(hours(4) + minutes(30)).await;
        service.start().await.unwrap();
        bed.run_for(minutes(50)).await;
        assert_eq!(service.health().runs, 6, "the three that were left");
        bed.run_for(minutes(10)).await;
        assert_eq!(service.health().runs, 7, "at 13");
    });
}

fn what_a_pause_interrupts_is_made_up_and_no_more(url: &str) {
    assert_eq!(serves(url, "00:30", &[], hours(1)), 1);
    process(url, "07:05", &[], async |bed, _| {
        let service = bed.start_of::<Long>().await;
        bed.run_for(minutes(25)).await;
        service.pause().await.unwrap();
        // From 7:30 to 12:05.
        bed.run_for(hours(4) + minutes(35)).await;
        assert_eq!(service.health().runs, 3);
        service.resume().await.unwrap();
        bed.run_for(minutes(50)).await;
        assert_eq!(service.health().runs, 6, "the three that were left");
        bed.run_for(minutes(10)).await;
        assert_eq!(service.health().runs, 7, "at 13");
    });
}

/// Does not notice a stop for ten minutes.
#[derive(Default)]
struct Deaf;

#[service(interval = "1h", drain_timeout = "1h", discover = false)]
impl Deaf {
    async fn update(&mut self) {
        tokio::time::sleep(minutes(10)).await;
    }
}

fn a_fire_that_comes_due_during_the_shutdown_is_made_up(url: &str) {
    process(url, "08:55", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.start_of::<Deaf>().await;
        bed.run_for(minutes(1)).await;
        let services = bed.services().await;
        let closing = services.clone();
        let shutdown = tokio::spawn(async move { closing.shutdown().await });
        bed.run_for(minutes(5)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Stopped, 0));
        let _ = shutdown.await.unwrap();
    });
    assert_eq!(serves(url, "09:10", &[], minutes(1)), 1);
}

fn after_a_failure_the_failed_fire_is_repeated_and_no_more(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_fn(|| Failing(true)).await;
        bed.run_for(hours(5)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Failed, 1));
        service.reset().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Failed, 2), "the one of 9, no other");
    });
}

/// Fails at its first run in each process.
struct FailsFirst(bool);

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", retry_delay = "10m", discover = false)]
impl FailsFirst {
    async fn update(&mut self) -> Result {
        if std::mem::take(&mut self.0) { Err(Error::msg("refused")) } else { Ok(()) }
    }
}

fn a_retry_is_not_lost_in_a_pause(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start(FailsFirst(true)).await;
        bed.run_for(minutes(31)).await;
        assert_eq!(service.state(), ServiceState::BackingOff);
        service.pause().await.unwrap();
        bed.run_for(hours(2)).await;
        assert_eq!(service.health().runs, 1);
    });
    // Killed at 11:01, with the fire of 9 not served.
    assert!(serves(url, "11:30", &[], minutes(1)) >= 1);
}

/// Commits a row for each fire, and fails after the first commit, as if its answer was lost.
struct Marks(bool);

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", retry_delay = 1, max_failures = 1, discover = false)]
impl Marks {
    async fn update(&mut self, cx: &Context) -> Result {
        let tx = cx.begin().await?;
        tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
        cx.mark_served_in(&tx).await?;
        tx.commit().await?;
        if std::mem::take(&mut self.0) { Err(Error::msg("the answer was lost")) } else { Ok(()) }
    }
}

fn a_fire_that_was_due_in_a_pause_is_marked_once(url: &str) {
    for (paused, catch_up) in [(1, "all"), (1, "latest"), (3, "all"), (3, "latest")] {
        process(url, "08:30", &[("hourly.catch_up", catch_up)], async |bed, db| {
            db.execute_unprepared("CREATE TABLE IF NOT EXISTS note (n INTEGER NOT NULL)").await.unwrap();
            db.execute_unprepared("DELETE FROM note").await.unwrap();
            db.execute_unprepared("DELETE FROM service_state").await.unwrap();
            let service = bed.start(Marks(true)).await;
            bed.run_for(minutes(1)).await;
            service.pause().await.unwrap();
            bed.run_for(hours(paused)).await;
            service.resume().await.unwrap();
            bed.run_for(minutes(1)).await;
            let error = service.health().last_error.unwrap();
            assert!(error.contains("has served the fire of 2026-03-02T09:00:00Z before"), "{error}");
            let count = "SELECT count(*) AS n FROM note";
            let rows = db.query_one_raw(Statement::from_string(db.get_database_backend(), count)).await.unwrap();
            assert_eq!(rows.unwrap().try_get::<i64>("", "n").unwrap(), 1, "the run that was due, and no retry of it");
        });
    }
}
