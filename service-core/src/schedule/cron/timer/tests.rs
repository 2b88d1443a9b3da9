use super::*;
use crate::schedule::cron::tests::{at, schedule};

#[test]
fn no_fire_is_repeated_when_the_clock_is_set_back_a_little() {
    let daily = schedule("0 3 * * *", "UTC");
    let mut plan = CronTimer::default();
    plan.plan(&daily, at("2026-01-01 02:00:00"), Duration::ZERO);
    assert!(!plan.is_due(at("2026-01-01 02:59:59")) && plan.is_due(at("2026-01-01 03:00:00")));
    plan.serve();
    plan.plan(&daily, at("2026-01-01 02:30:00"), Duration::ZERO);
    assert!(!plan.is_due(at("2026-01-01 03:00:00")) && plan.is_due(at("2026-01-02 03:00:00")));
    // Set back by a year: the clock was wrong before.
    assert!(plan.stands(&daily, at("2026-01-01 02:31:00")));
    assert!(!plan.stands(&daily, at("2025-01-01 02:00:00")));
    plan.plan(&daily, at("2025-01-01 02:00:00"), Duration::ZERO);
    assert!(plan.is_due(at("2025-01-01 03:00:00")));
}

#[test]
fn a_fire_that_another_process_has_served_is_not_repeated_by_a_clock_that_is_behind() {
    let daily = schedule("0 3 * * *", "UTC");
    let (fire, now) = (at("2026-01-01 03:00:00"), at("2026-01-01 02:59:59"));
    let mut plan = CronTimer::default();
    plan.served_before(fire);
    assert!(plan.find_missed(&daily, now, 1).is_empty());
    plan.all_made_up();
    plan.plan(&daily, now, Duration::ZERO);
    assert!(!plan.is_due(fire) && plan.is_due(at("2026-01-02 03:00:00")));
    assert!(plan.stands(&daily, now));
}

#[test]
fn a_served_fire_survives_several_losses_of_the_lease() {
    let daily = schedule("0 3 * * *", "UTC");
    let mut timer = CronTimer::default();
    timer.follow(&daily, at("2026-01-01 02:00:00"), true);
    timer.plan(&daily, at("2026-01-01 02:00:00"), Duration::ZERO);
    timer.serve();
    timer.done();
    let mut unrecorded = timer.into_unrecorded();
    for _ in 0..2 {
        // The lease is lost again before the schedule is followed.
        let mut next = CronTimer::default();
        next.resume(unrecorded.expect("it is not recorded"));
        unrecorded = next.into_unrecorded();
    }
    assert!(unrecorded.is_some_and(|unrecorded| unrecorded.is_of(&daily)));
}

#[test]
fn another_schedule_is_recorded_only_after_the_run_whose_fire_may_be_retried() {
    let (daily, hourly) = (schedule("0 3 * * *", "UTC"), schedule("0 * * * *", "UTC"));
    let (fire, changed) = (at("2026-01-01 03:00:00"), at("2026-01-01 03:05:00"));
    let mut timer = CronTimer::default();
    timer.follow(&daily, at("2026-01-01 02:00:00"), true);
    timer.plan(&daily, at("2026-01-01 02:00:00"), Duration::ZERO);
    assert_eq!(timer.serve(), Some(fire));
    timer.follow(&hourly, changed, true);
    assert_eq!(timer.unrecorded(), None, "the run may have recorded its fire in its own transaction");
    timer.done();
    assert_eq!(timer.unrecorded(), Some(changed));
    timer.follow(&daily, at("2026-01-01 04:05:00"), true);
    assert_eq!(timer.unrecorded(), Some(at("2026-01-01 04:05:00")), "no run is in progress");
}

#[test]
fn a_fire_that_waits_for_its_jitter_stays_planned() {
    let hourly = schedule("0 * * * *", "UTC");
    let mut plan = CronTimer::default();
    plan.plan(&hourly, at("2026-01-01 02:30:00"), Duration::from_secs(600));
    plan.plan(&hourly, at("2026-01-01 03:05:00"), Duration::ZERO);
    assert!(!plan.is_due(at("2026-01-01 03:09:59")) && plan.is_due(at("2026-01-01 03:10:00")));
    assert_eq!(plan.until_next_check(at("2026-01-01 03:05:00")), Duration::from_secs(60));
    assert_eq!(plan.until_next_check(at("2026-01-01 03:09:50")), Duration::from_secs(10));
}

#[test]
fn pauses_are_not_kept_when_nothing_was_missed() {
    let mut timer = CronTimer::default();
    for minute in 0..1_000 {
        let now = at("2026-01-01 02:00:00") + Duration::from_secs(60 * minute);
        timer.set_paused(true, now);
        timer.set_paused(false, now + Duration::from_secs(1));
    }
    timer.all_made_up();
    assert_eq!(timer.skipped.len(), 1);
}
