//! Wake-ups: the next run is due now, once for any number of them.

use super::*;
use crate::observe::health::{self, HealthStatus};
use crate::runtime::requests::{PausedBy, Rebuild};
use crate::schedule::{CatchUp, CronSchedule};

/// Logs when each run begins, in seconds since the start, and for which second it is scheduled.
fn logging(takes: Duration) -> Script {
    let begun = tokio::time::Instant::now();
    let script = Script::new();
    let log = script.log.clone();
    script.update(move |cx| {
        log.push(match cx.nominal {
            Nominal::At(at) => format!("at {} for {}", begun.elapsed().as_secs(), (at - begun).as_secs()),
            _ => format!("at {} woken", begun.elapsed().as_secs()),
        });
        async move {
            tokio::time::sleep(takes).await;
            Ok(Outcome::idle())
        }
    })
}

fn runs(service: &Service) -> Vec<String> {
    service.log.lines().iter().filter_map(|line| Some(line.strip_prefix("at ")?.to_owned())).collect()
}

fn on_demand() -> Options {
    Options { schedule: Schedule::OnDemand, ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn on_demand_a_service_runs_only_when_it_is_woken_or_requested() {
    let service = logging(Duration::ZERO).start(on_demand());
    tokio::time::sleep(secs(86_400)).await;
    assert_eq!(runs(&service), [""; 0]);
    let found = health::of(&service.inner, &service.services, &NoExtension);
    assert_eq!((found.state, found.status, found.next_run), (ServiceState::Running, HealthStatus::Healthy, None));
    service.inner.request_wake();
    tokio::time::sleep(secs(10)).await;
    service.inner.request_run(None).unwrap();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(runs(&service), ["86400 woken", "86410 woken"]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_makes_the_next_run_due_now_and_the_grid_stays() {
    let options = Options { jitter: secs(1), initial_delay: secs(100), ..Options::default() };
    let service = logging(Duration::ZERO).start(options);
    tokio::time::sleep(secs(10)).await;
    service.inner.request_wake();
    tokio::time::sleep(ms(1)).await;
    assert_eq!(runs(&service), ["10 woken"], "without the initial delay and without jitter");
    tokio::time::sleep(secs(95)).await;
    service.inner.request_wake();
    tokio::time::sleep(secs(65)).await;
    assert_eq!(runs(&service).len(), 4);
    assert!(runs(&service)[1].ends_with(" for 100") && runs(&service)[3].ends_with(" for 160"), "{:?}", runs(&service));
    assert_eq!(runs(&service)[2], "105 woken");
}

#[tokio::test(start_paused = true)]
async fn any_number_of_wake_ups_is_one_run_and_one_that_comes_during_a_run_is_served_by_the_next() {
    let service = logging(secs(10)).start(on_demand());
    tokio::time::sleep(secs(1)).await;
    (0..5).for_each(|_| _ = service.inner.request_wake());
    tokio::time::sleep(secs(5)).await;
    (0..5).for_each(|_| _ = service.inner.request_wake());
    tokio::time::sleep(secs(100)).await;
    assert_eq!(runs(&service), ["1 woken", "11 woken"]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_while_paused_or_starting_is_remembered() {
    let script = logging(Duration::ZERO).configure(async |_| {
        tokio::time::sleep(secs(5)).await;
        Ok(())
    });
    let service = script.start(on_demand());
    tokio::time::sleep(secs(1)).await;
    service.inner.request_wake();
    tokio::time::sleep(secs(5)).await;
    assert_eq!(runs(&service), ["5 woken"]);
    service.inner.request_pause(PausedBy::Handle).unwrap();
    service.inner.request_wake();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(runs(&service).len(), 1);
    service.inner.request_resume().unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(runs(&service)[1..], ["16 woken"]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_does_not_shorten_the_wait_for_a_retry_and_the_retry_serves_it() {
    let script = Script::new().update(async |cx| if cx.run_number() == 1 { fails() } else { Ok(Outcome::idle()) });
    let service = script.start(on_demand());
    tokio::time::sleep(secs(1)).await;
    service.inner.request_wake();
    tokio::time::sleep(secs(1)).await;
    service.inner.request_wake();
    tokio::time::sleep(secs(2)).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    tokio::time::sleep(secs(100)).await;
    assert_eq!(service.inner.lock().status.stats.runs, 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_run_drops_wake_ups() {
    let mut service = logging(Duration::ZERO).start(on_demand());
    tokio::time::sleep(secs(1)).await;
    service.stop();
    service.inner.request_wake();
    service.ended().await;
    service.inner.request_wake();
    let service = service.start_again();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(runs(&service), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_run_on_demand_that_is_given_up_leaves_the_service_waiting() {
    let service = Script::new().update(async |_| fails()).start(Options { max_failures: 1, ..on_demand() });
    service.started().await;
    for wake in 1..=3 {
        service.inner.request_wake();
        tokio::time::sleep(secs(60)).await;
        assert_eq!((service.state(), service.inner.lock().status.stats.runs), (ServiceState::Running, 2 * wake));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_and_a_run_that_continues_the_work_have_the_time_of_the_first_run() {
    let begun = tokio::time::Instant::now();
    let script = Script::new();
    let log = script.log.clone();
    let script = script.update(move |cx| {
        if let Nominal::At(at) = cx.nominal {
            log.push(format!("for {}", (at - begun).as_secs()));
        }
        async move {
            match cx.run_number() {
                2 => fails(),
                3 => Ok(Outcome::processed(1).again()),
                _ => Ok(Outcome::idle()),
            }
        }
    });
    let service = script.start(Options::default());
    tokio::time::sleep(secs(125)).await;
    let lines: Vec<String> = service.log.lines().into_iter().filter(|line| line.starts_with("for")).collect();
    assert_eq!(lines, ["for 0", "for 60", "for 60", "for 60", "for 120"]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_serves_no_cron_fire() {
    let cron = CronSchedule { expression: "0 3 * * *".to_owned(), timezone: "UTC".to_owned(), catch_up: CatchUp::None };
    let service = logging(Duration::ZERO).start(Options { schedule: Schedule::Cron(cron), ..Options::default() });
    service.started().await;
    service.inner.request_wake();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(runs(&service), ["0 woken"]);
}

/// The first `failing` attempts to build an instance fail.
fn hard_to_build(failing: usize, script: Script) -> Script {
    let attempts = Arc::new(AtomicUsize::new(0));
    script.configure(move |_| {
        let fails = attempts.fetch_add(1, Ordering::SeqCst) < failing;
        async move { if fails { super::fails().map(|_| ()) } else { Ok(()) } }
    })
}

#[tokio::test(start_paused = true)]
async fn on_demand_a_service_whose_start_failed_once_still_waits_for_a_wake_up() {
    let service = hard_to_build(1, logging(Duration::ZERO)).start(on_demand());
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(runs(&service), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_during_the_start_is_served_when_the_instance_can_be_built() {
    let options = Options { schedule: Schedule::Interval(secs(60)), initial_delay: secs(100), ..Options::default() };
    for options in [on_demand(), options] {
        let service = hard_to_build(2, logging(Duration::ZERO)).start(options);
        service.inner.request_wake();
        tokio::time::sleep(secs(11)).await;
        assert_eq!(runs(&service), ["10 woken"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_is_served_by_the_run_that_is_given_up() {
    let options = Options { max_failures: 1, ..on_demand() };
    let service = hard_to_build(4, logging(Duration::ZERO)).start(options);
    service.inner.request_wake();
    // Two attempts, and no further ones without another wake-up.
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(service.state(), ServiceState::Running);
    assert_eq!(service.inner.lock().status.stats.errors, 2);
    service.inner.request_wake();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(service.inner.lock().status.stats.errors, 4);
    service.inner.request_wake();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(runs(&service), ["3660 woken"]);
}

/// A run that follows a failed build serves the moment for which the instance was to be built.
#[tokio::test(start_paused = true)]
async fn a_run_after_a_failed_rebuild_serves_its_own_moment() {
    let builds = Arc::new(AtomicUsize::new(0));
    let script = logging(Duration::ZERO).configure(move |_| {
        let fails = builds.fetch_add(1, Ordering::SeqCst) == 1;
        async move { if fails { Err(Error::msg("it failed")) } else { Ok(()) } }
    });
    let service = script.start(Options { retry_delay: secs(5), ..Options::default() });
    tokio::time::sleep(secs(30)).await;
    service.inner.lock().request_rebuild(Rebuild::Settings);
    tokio::time::sleep(secs(40)).await;
    assert_eq!(runs(&service), ["0 for 0", "65 for 60"]);
    // A woken run has no moment.
    service.inner.lock().request_rebuild(Rebuild::Settings);
    service.inner.request_wake();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(runs(&service)[2], "70 woken");
}
