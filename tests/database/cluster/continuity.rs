//! A replica that takes over continues the schedule where the former holder left it.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use sea_orm::ConnectionTrait;
use service_core::database::{Override, migrate, remove_override, set_override};
use service_core::prelude::*;
use service_core::testing::TestBed;

use super::Log;
use crate::bed::{Bed, on_each};
use crate::missed::process;
use crate::postgres::Postgres;

on_each! {
    an_interval_continues_on_its_grid,
    an_interval_that_changes_after_a_takeover_counts_from_the_last_run,
    a_delay_that_changes_after_a_takeover_counts_from_the_last_run,
    an_interval_that_becomes_a_delay_after_a_takeover_counts_from_the_last_run,
    a_delay_that_becomes_an_interval_after_a_takeover_counts_from_the_last_run,
    an_interval_that_becomes_cron_after_a_takeover_makes_up_nothing,
    a_point_that_no_replica_has_served_is_served_at_once,
    a_run_that_takes_longer_than_its_interval_moves_the_grid_for_all,
    a_delay_counts_from_the_end_of_the_last_run,
    the_initial_delay_applies_once,
    a_fire_that_no_replica_has_served_is_made_up,
    a_stop_of_the_holder_skips_no_fire,
    a_fire_that_was_served_and_not_recorded_before_the_lease_was_lost_is_not_repeated,
    a_fire_that_is_marked_as_served_is_not_repeated,
    without_the_mark_a_fire_whose_run_was_killed_is_repeated,
    a_replica_whose_clock_is_behind_does_not_repeat_a_fire,
    a_run_that_has_committed_its_fire_commits_it_only_once,
    a_run_that_has_more_to_do_commits_all_of_it,
    a_takeover_in_a_pause_makes_up_nothing_that_the_pause_has_skipped,
    a_takeover_in_a_pause_makes_up_what_was_missed_before,
}

/// Notes its runs, and the fires that they serve.
struct Job {
    name: &'static str,
    log: Log,
    works: Duration,
    /// Marks its fire as served before it works.
    marks: bool,
}

#[service(interval = 60, scope = "cluster", lease = 10, discover = false)]
impl Job {
    async fn update(&mut self, cx: &Context) -> Result<()> {
        self.log.add(format!("{} runs", self.name));
        if let Some(fire) = cx.scheduled_for() {
            self.log.add(format!("serves {}", DateTime::<Utc>::from(fire).format("%H:%M:%S")));
        }
        if self.marks {
            let tx = cx.begin().await?;
            cx.mark_served_in(&tx).await?;
            tx.commit().await?;
        }
        tokio::time::sleep(self.works).await;
        Ok(())
    }
}

async fn start(bed: &TestBed, name: &'static str, log: &Log, works: u64, marks: bool) -> ServiceHandle {
    let (log, works) = (log.clone(), Duration::from_secs(works));
    bed.start_fn(move || Job { name, log: log.clone(), works, marks }).await
}

impl Bed {
    /// Two replicas with these options, of which the first is `a`.
    async fn with(&self, options: &[(&str, &str)]) -> (TestBed, TestBed) {
        let set = |bed: TestBed| options.iter().fold(bed, |bed, (key, value)| bed.set(key, *value));
        (set(self.other().await), set(self.other().await))
    }
}

async fn an_interval_continues_on_its_grid(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[]).await);
    start(&a, "a", &log, 0, false).await;
    start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(65)).await;
    assert_eq!(log.times("a runs"), [0.0, 60.0]);
    b.kill(a).await;
    b.run_for(Duration::from_secs(180)).await;
    assert_eq!(log.times("b runs"), [120.0, 180.0, 240.0]);
}

async fn an_interval_that_changes_after_a_takeover_counts_from_the_last_run(replicas: Bed) {
    the_schedule_changes_after_a_takeover(replicas, ("interval", "24h"), ("interval", "5m")).await;
}

async fn a_delay_that_changes_after_a_takeover_counts_from_the_last_run(replicas: Bed) {
    the_schedule_changes_after_a_takeover(replicas, ("delay", "24h"), ("delay", "5m")).await;
}

async fn an_interval_that_becomes_a_delay_after_a_takeover_counts_from_the_last_run(replicas: Bed) {
    the_schedule_changes_after_a_takeover(replicas, ("interval", "24h"), ("delay", "5m")).await;
}

async fn a_delay_that_becomes_an_interval_after_a_takeover_counts_from_the_last_run(replicas: Bed) {
    the_schedule_changes_after_a_takeover(replicas, ("delay", "24h"), ("interval", "5m")).await;
}

async fn an_interval_that_becomes_cron_after_a_takeover_makes_up_nothing(replicas: Bed) {
    the_schedule_changes_after_a_takeover(replicas, ("interval", "24h"), ("cron", "*/5 * * * *")).await;
}

/// After the takeover, the schedule changes before the first run.
async fn the_schedule_changes_after_a_takeover(replicas: Bed, before: (&str, &str), after: (&str, &str)) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[]).await);
    migrate(&replicas.db).await.unwrap();
    set_override(&replicas.db, &Override::new("job", before.0, before.1)).await.unwrap();
    start(&a, "a", &log, 0, false).await;
    start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(100)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(100)).await;
    assert_eq!((log.times("a runs"), log.times("b runs")), (vec![0.0], vec![]));
    remove_override(&replicas.db, "job", before.0).await.unwrap();
    set_override(&replicas.db, &Override::new("job", after.0, after.1)).await.unwrap();
    b.run_for(Duration::from_secs(700)).await;
    assert_eq!(log.times("b runs"), [300.0, 600.0, 900.0]);
}

async fn a_point_that_no_replica_has_served_is_served_at_once(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[("lease", "30s")]).await);
    start(&a, "a", &log, 0, false).await;
    start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(55)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(90)).await;
    let runs = log.times("b runs");
    // Renewed at 50 s, the lease ends at 80 s. The point at 60 s is late, and the grid stays.
    assert!(runs.len() == 2 && (80.0..81.1).contains(&runs[0]) && runs[1] == 120.0, "{:?}", log.all());
}

async fn a_run_that_takes_longer_than_its_interval_moves_the_grid_for_all(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[]).await);
    start(&a, "a", &log, 70, false).await;
    start(&b, "b", &log, 0, false).await;
    // The second run begins at the end of the first.
    b.run_for(Duration::from_secs(75)).await;
    assert_eq!(log.times("a runs"), [0.0, 70.0]);
    b.kill(a).await;
    b.run_for(Duration::from_secs(120)).await;
    assert_eq!(log.times("b runs"), [130.0, 190.0]);
}

async fn a_delay_counts_from_the_end_of_the_last_run(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[("delay", "60s")]).await);
    start(&a, "a", &log, 5, false).await;
    start(&b, "b", &log, 5, false).await;
    b.run_for(Duration::from_secs(20)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(120)).await;
    assert_eq!(log.times("b runs"), [65.0, 130.0]);
}

async fn the_initial_delay_applies_once(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&[("initial_delay", "100s")]).await);
    start(&a, "a", &log, 0, false).await;
    let service = start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(50)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(60)).await;
    assert_eq!(log.times("b runs"), [100.0]);
    service.stop().await.unwrap();
    service.start().await.unwrap();
    b.run_for(Duration::from_secs(60)).await;
    assert_eq!(log.times("b runs"), [100.0, 160.0], "the grid goes on, without another delay");
}

const HOURLY: [(&str, &str); 2] = [("cron", "0 * * * *"), ("lease", "60s")];

async fn a_fire_that_no_replica_has_served_is_made_up(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    start(&a, "a", &log, 0, false).await;
    start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(3600 + 3595)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(3600 + 60)).await;
    assert_eq!((log.times("a runs").len(), log.times("b runs").len()), (1, 2));
    for fire in ["serves 01:00:00", "serves 02:00:00", "serves 03:00:00"] {
        assert_eq!(log.times(fire).len(), 1, "{:?}", log.all());
    }
    let late = log.times("serves 02:00:00")[0];
    assert!((7200.0..7261.0).contains(&late), "within the lease and a poll: {late}");
}

async fn a_stop_of_the_holder_skips_no_fire(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    let on_a = start(&a, "a", &log, 0, false).await;
    let on_b = start(&b, "b", &log, 0, false).await;
    a.run_for(Duration::from_secs(3599)).await;
    on_b.stop().await.unwrap();
    on_a.stop().await.unwrap();
    // No replica runs it now.
    a.run_for(Duration::from_secs(60)).await;
    on_b.start().await.unwrap();
    a.run_for(Duration::from_secs(60)).await;
    assert_eq!((log.times("a runs").len(), log.times("serves 01:00:00").len()), (0, 1), "{:?}", log.all());
}

async fn a_fire_that_was_served_and_not_recorded_before_the_lease_was_lost_is_not_repeated(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    let on_a = start(&a, "a", &log, 0, false).await;
    a.run_for(Duration::from_secs(3595)).await;
    a.partition(&a);
    a.run_for(Duration::from_secs(85)).await;
    assert_eq!((on_a.state(), log.times("a runs").len()), (ServiceState::Standby, 1), "{:?}", log.all());
    a.heal(&a);
    a.run_for(Duration::from_secs(120)).await;
    assert_eq!((on_a.state(), log.times("a runs").len()), (ServiceState::Running, 1), "{:?}", log.all());
    // It is recorded now, so another process does not repeat it either.
    let on_b = start(&b, "b", &log, 0, false).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(3600)).await;
    assert_eq!((on_b.state(), log.times("serves 01:00:00").len()), (ServiceState::Running, 1), "{:?}", log.all());
    assert_eq!(log.times("serves 02:00:00").len(), 1, "{:?}", log.all());
}

async fn a_fire_that_is_marked_as_served_is_not_repeated(replicas: Bed) {
    assert_eq!(fires_of_a_killed_run(replicas, true).await, 1);
}

async fn without_the_mark_a_fire_whose_run_was_killed_is_repeated(replicas: Bed) {
    assert_eq!(fires_of_a_killed_run(replicas, false).await, 2);
}

/// Kills the process during the run of a fire. Returns how often the fire was run in all.
async fn fires_of_a_killed_run(replicas: Bed, marks: bool) -> usize {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    start(&a, "a", &log, 30, marks).await;
    start(&b, "b", &log, 0, marks).await;
    b.run_for(Duration::from_secs(3610)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(600)).await;
    log.times("serves 01:00:00").len()
}

async fn a_replica_whose_clock_is_behind_does_not_repeat_a_fire(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    let on_a = start(&a, "a", &log, 0, true).await;
    let on_b = start(&b, "b", &log, 0, true).await;
    b.run_for(Duration::from_secs(3601)).await;
    assert_eq!(log.times("serves 01:00:00").len(), 1, "{:?}", log.all());
    b.set_wall_clock(wall_clock(&replicas.bed).await - Duration::from_secs(5)).await;
    on_a.stop().await.unwrap();
    b.run_for(Duration::from_secs(2)).await;
    assert_eq!(on_b.state(), ServiceState::Running);
    b.run_for(Duration::from_secs(60)).await;
    assert_eq!(log.times("serves 01:00:00").len(), 1, "{:?}", log.all());
    b.run_for(Duration::from_secs(3600)).await;
    assert_eq!((log.times("b runs").len(), log.times("serves 02:00:00").len()), (1, 1), "{:?}", log.all());
}

/// The time of a bed, by its wall clock.
async fn wall_clock(bed: &TestBed) -> SystemTime {
    struct Clock(Option<SystemTime>);

    #[service(discover = false)]
    impl Clock {
        async fn update(&mut self, cx: &Context) {
            self.0 = Some(cx.now());
        }
    }

    let mut clock = Clock(None);
    bed.update(&mut clock).await;
    clock.0.unwrap()
}

/// Commits a row for each run of a fire.
struct Writer {
    /// Returns an error after the commit.
    fails: bool,
}

#[service(cron = "0 * * * *", scope = "cluster", lease = 60, retry_delay = 1, max_failures = 3, discover = false)]
impl Writer {
    async fn update(&mut self, cx: &Context) -> Result<Outcome> {
        let tx = cx.begin().await?;
        tx.execute_unprepared("INSERT INTO note VALUES (1)").await?;
        cx.mark_served_in(&tx).await?;
        tx.commit().await?;
        if self.fails {
            return Err(Error::msg("the answer to the commit was lost"));
        }
        let is_last = cx.run_number().is_multiple_of(3);
        Ok(if is_last { Outcome::processed(1) } else { Outcome::processed(1).again() })
    }
}

async fn rows_of_two_fires(replicas: &Bed, fails: bool) -> (i64, ServiceHandle) {
    replicas.execute("CREATE TABLE note (n INTEGER NOT NULL)").await;
    let service = replicas.bed.start_fn(move || Writer { fails }).await;
    replicas.run_for(2.0 * 3600.0 + 100.0).await;
    (replicas.number("SELECT count(*) FROM note").await, service)
}

async fn a_run_that_has_committed_its_fire_commits_it_only_once(replicas: Bed) {
    let (rows, service) = rows_of_two_fires(&replicas, true).await;
    // Each run is given up after three retries.
    assert_eq!((rows, service.health().runs), (2, 8));
    let error = service.health().last_error.unwrap();
    assert!(error.contains("has served the fire of ") && error.contains("02:00:00Z before"), "{error}");
}

async fn a_run_that_has_more_to_do_commits_all_of_it(replicas: Bed) {
    let (rows, service) = rows_of_two_fires(&replicas, false).await;
    assert_eq!((rows, service.health().runs, service.health().error_count), (6, 6, 0));
}

impl Bed {
    /// Pauses the job for all replicas, since this time of the day.
    async fn pause(&self, time: &str) {
        let values = format!("('job', 'paused', 'true', 'ann', '', '2026-01-01T{time}Z')");
        self.execute(&format!(
            "INSERT INTO service_override (service_id, key, value, set_by, why, set_at) VALUES {values}"
        ))
        .await;
    }

    async fn resume(&self) {
        self.execute("DELETE FROM service_override").await;
    }
}

async fn a_takeover_in_a_pause_makes_up_nothing_that_the_pause_has_skipped(replicas: Bed) {
    let options: Vec<_> = HOURLY.into_iter().chain([("catch_up", "all")]).collect();
    let (log, (a, b)) = (Log::new(), replicas.with(&options).await);
    start(&a, "a", &log, 0, false).await;
    let on_b = start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(1800)).await;
    replicas.pause("00:30:00").await;
    b.run_for(Duration::from_secs(1780)).await;
    // The other one takes over after 01:00.
    b.kill(a).await;
    b.run_for(Duration::from_secs(4 * 3600 - 1200)).await;
    assert_eq!((on_b.state(), log.times("b runs").len()), (ServiceState::Paused, 0));
    replicas.resume().await;
    b.run_for(Duration::from_secs(600)).await;
    // As after any pause, the run that is due is made.
    assert_eq!((log.times("b runs").len(), log.times("serves 02:00:00").len()), (1, 1), "{:?}", log.all());
    b.run_for(Duration::from_secs(1800)).await;
    assert_eq!((log.times("b runs").len(), log.times("serves 05:00:00").len()), (2, 1), "{:?}", log.all());
}

async fn a_takeover_in_a_pause_makes_up_what_was_missed_before(replicas: Bed) {
    let (log, (a, b)) = (Log::new(), replicas.with(&HOURLY).await);
    start(&a, "a", &log, 0, false).await;
    let on_b = start(&b, "b", &log, 0, false).await;
    b.run_for(Duration::from_secs(3595)).await;
    b.kill(a).await;
    b.run_for(Duration::from_secs(10)).await;
    replicas.pause("01:00:05").await;
    b.run_for(Duration::from_secs(3600)).await;
    assert_eq!((on_b.state(), log.times("b runs").len()), (ServiceState::Paused, 0), "{:?}", log.all());
    replicas.resume().await;
    b.run_for(Duration::from_secs(600)).await;
    assert_eq!((log.times("b runs").len(), log.times("serves 01:00:00").len()), (1, 1), "{:?}", log.all());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_without_catch_up_has_no_fires_to_mark() {
    #[derive(Default)]
    struct Nightly;

    #[service(cron = "0 3 * * *", discover = false)]
    impl Nightly {
        async fn update(&mut self, cx: &Context) -> Result<()> {
            let tx = cx.begin().await?;
            cx.mark_served_in(&tx).await?;
            tx.commit().await
        }
    }

    let bed = TestBed::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
    bed.sqlite().await;
    let service = bed.start_of::<Nightly>().await;
    bed.run_for(Duration::from_secs(4 * 3600)).await;
    let error = service.health().last_error.unwrap();
    assert!(error.contains("`catch_up`"), "{error}");
}

/// Runs every minute.
#[derive(Default)]
struct Minutely;

#[service(interval = 60, scope = "cluster", lease = 30, discover = false)]
impl Minutely {
    async fn update(&mut self) {}
}

/// Each process has a bed of its own, and is killed.
fn a_bed_continues_what_an_earlier_one_has_left(url: &str) {
    let minutely = async |bed: &TestBed, seconds: u64| {
        let service = bed.start_of::<Minutely>().await;
        let state = service.state();
        bed.run_for(Duration::from_secs(31)).await;
        assert_eq!(service.state(), ServiceState::Running);
        bed.run_for(Duration::from_secs(seconds - 31)).await;
        (state, service.health().runs)
    };
    let first = process(url, "10:00", &[], async |bed, _| minutely(bed, 3590).await);
    assert_eq!(first, (ServiceState::Running, 60));
    // 10 s later, the lease is valid for 20 s at most. One point is late, and the grid goes on.
    let second = process(url, "11:00", &[], async |bed, _| minutely(bed, 150).await);
    assert_eq!(second, (ServiceState::Standby, 3));
    // Minutes later, it has expired.
    let third = process(url, "11:07", &[], async |bed, _| minutely(bed, 150).await);
    assert_eq!(third, (ServiceState::Running, 3));
}

#[test]
fn on_sqlite_a_bed_continues_what_an_earlier_one_has_left() {
    let dir = tempfile::tempdir().unwrap();
    a_bed_continues_what_an_earlier_one_has_left(&format!("sqlite:{}", dir.path().join("test.db").display()));
}

#[test]
fn on_postgresql_a_bed_continues_what_an_earlier_one_has_left() {
    if let Some(server) = Postgres::shared() {
        a_bed_continues_what_an_earlier_one_has_left(&server.database());
    }
}
