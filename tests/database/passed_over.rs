//! Fires that come due while the process is up and that its schedule passes over: during a run, a retry or a suspend. They
//! are not missed. Also those of a schedule that has changed while the first instance was built.

use std::time::{Duration, SystemTime};

use service_core::database::{Override, set_override};
use service_core::prelude::*;

use crate::missed::{Hourly, at, hours, minutes, on_each, process, serves};

/// Takes two and a half hours.
#[derive(Default)]
struct Overlong;

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", drain_timeout = "1h", discover = false)]
impl Overlong {
    async fn update(&mut self) {
        tokio::time::sleep(minutes(150)).await;
    }
}

/// Fails, is retried after 100 minutes, and is given up then.
#[derive(Default)]
struct GivenUp;

#[service(
    name = "hourly",
    cron = "0 * * * *",
    catch_up = "all",
    max_failures = 1,
    retry_delay = "100m",
    max_retry_delay = "100m",
    discover = false
)]
impl GivenUp {
    async fn update(&mut self) -> Result {
        Err(Error::msg("refused"))
    }
}

/// Fails after an hour and a half, without a consequence.
#[derive(Default)]
struct Ignored;

#[service(name = "hourly", cron = "0 * * * *", catch_up = "all", discover = false)]
impl Ignored {
    async fn update(&mut self) -> Result {
        tokio::time::sleep(minutes(90)).await;
        Err(Error::msg("refused"))
    }

    fn on_failure(&mut self, _failure: &Failure) -> Recovery {
        Recovery::Ignore
    }
}

/// Is built in three minutes.
struct BuiltSlowly;

#[service(name = "hourly", cron = "0 3 * * *", catch_up = "all", discover = false)]
impl BuiltSlowly {
    async fn configure(_cx: &Context) -> Result<Self> {
        tokio::time::sleep(minutes(3)).await;
        Ok(Self)
    }

    async fn update(&mut self) {}
}

on_each! {
    fires_during_a_run_are_not_missed,
    of_the_fires_during_a_run_those_after_the_begin_of_a_shutdown_are_missed,
    fires_during_a_run_that_a_manual_stop_drains_are_not_missed,
    fires_before_a_retry_that_is_given_up_are_not_missed,
    fires_during_a_run_whose_failure_is_ignored_are_not_missed,
    fires_during_a_suspend_are_not_missed,
    fires_that_come_due_while_others_are_made_up_are_not_passed_over,
    a_schedule_that_changes_during_configure_catches_up_nothing,
}

fn fires_during_a_run_are_not_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Overlong>().await;
        // The run of 9 ends at 11:30.
        bed.run_for(minutes(190)).await;
        assert_eq!(service.health().runs, 1);
        service.stop().await.unwrap();
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1, "10 and 11 are not made up");
    });
    // Killed at 11:41.
    assert_eq!(serves(url, "11:50", &[], minutes(1)), 0);
    assert_eq!(serves(url, "13:10", &[], minutes(1)), 2, "12 and 13");
}

fn of_the_fires_during_a_run_those_after_the_begin_of_a_shutdown_are_missed(url: &str) {
    let often = [("cron", "*/30 * * * *")];
    process(url, "08:50", &often, async |bed, _| {
        let service = bed.start_of::<Overlong>().await;
        // The run of 9 ends at 11:30, ten seconds after the begin of the shutdown.
        bed.run_for(minutes(160) - Duration::from_secs(10)).await;
        bed.services().await.shutdown().await.unwrap();
        let health = service.health();
        assert_eq!((health.runs, health.last_success.is_some()), (1, true));
    });
    assert_eq!(serves(url, "11:45", &often, minutes(1)), 1, "11:30");
}

fn fires_during_a_run_that_a_manual_stop_drains_are_not_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Overlong>().await;
        bed.run_for(minutes(148)).await;
        service.stop().await.unwrap();
        service.start().await.unwrap();
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1);
    });
    assert_eq!(serves(url, "11:45", &[], minutes(1)), 0);
}

fn fires_before_a_retry_that_is_given_up_are_not_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<GivenUp>().await;
        // The retry of 9 fails at 10:40.
        bed.run_for(minutes(140)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Running, 2));
    });
    assert_eq!(serves(url, "10:55", &[], minutes(1)), 0);
    assert_eq!(serves(url, "12:10", &[], minutes(1)), 2, "11 and 12");
}

fn fires_during_a_run_whose_failure_is_ignored_are_not_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Ignored>().await;
        // The run of 9 ends at 10:30.
        bed.run_for(minutes(130)).await;
        assert_eq!(service.health().runs, 1);
    });
    assert_eq!(serves(url, "10:45", &[], minutes(1)), 0);
}

fn fires_during_a_suspend_are_not_missed(url: &str) {
    process(url, "08:30", &[], async |bed, _| {
        let service = bed.start_of::<Hourly>().await;
        bed.run_for(hours(1)).await;
        bed.set_wall_clock(SystemTime::from(at("15:30"))).await;
        bed.run_for(minutes(2)).await;
        assert_eq!(service.health().runs, 2, "at 9, and one run for all that was skipped");
    });
    assert_eq!(serves(url, "15:50", &[], minutes(1)), 0);
    assert_eq!(serves(url, "16:10", &[], minutes(1)), 1, "16");
}

fn fires_that_come_due_while_others_are_made_up_are_not_passed_over(url: &str) {
    assert_eq!(serves(url, "00:30", &[], hours(1)), 1, "at 1");
    process(url, "03:30", &[], async |bed, _| {
        let service = bed.start_of::<Overlong>().await;
        // Those of 2 and 3, until 8:30, and of 4, until 11.
        bed.run_for(minutes(9 * 60 + 30)).await;
        assert_eq!(service.health().runs, 4);
    });
    // Killed at 13, in the run for 5.
    assert_eq!(serves(url, "13:10", &[], minutes(1)), 9, "5 to 13");
}

fn a_schedule_that_changes_during_configure_catches_up_nothing(url: &str) {
    process(url, "02:30", &[], async |bed, _| {
        let service = bed.start_of::<BuiltSlowly>().await;
        bed.run_for(hours(1)).await;
        assert_eq!(service.health().runs, 1, "at 3");
    });
    process(url, "12:00", &[], async |bed, db| {
        // Returns after 30 s.
        let service = bed.start_of::<BuiltSlowly>().await;
        assert_eq!(service.state(), ServiceState::Starting);
        set_override(db, &Override::new("hourly", "cron", "*/5 * * * *")).await.unwrap();
        bed.run_for(minutes(4)).await;
        assert_eq!((service.state(), service.health().runs), (ServiceState::Running, 0));
        bed.run_for(minutes(1)).await;
        assert_eq!(service.health().runs, 1, "at 12:05");
    });
}
