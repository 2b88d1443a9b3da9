//! The calls of an extension: a commit in flight, rows that a run left open, outages, and stored cron fires.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use tokio::time::Instant;

use super::*;
use crate::runtime::resource::{Outage, Resource};
use crate::schedule::CronSchedule;
use crate::service::failure::FailureKind;

/// An extension that follows the test's script.
#[derive(Debug)]
struct Scripted {
    log: Log,
    committing: AtomicBool,
    unsettled: AtomicBool,
    down: Arc<AtomicBool>,
    down_if_looked_at: Arc<AtomicBool>,
    resource: Arc<ScriptedResource>,
    /// The stored fire; `None`: the present time.
    last_fire: Mutex<Option<SystemTime>>,
    /// Answers of `settle` and `record_fire`. After the last answer both succeed.
    answers: Mutex<VecDeque<Answer>>,
}

#[derive(Debug)]
enum Answer {
    Error,
    Fatal,
    Hangs,
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new(Log::default())
    }
}

impl Scripted {
    fn new(log: Log) -> Self {
        let (down, down_if_looked_at) = (Arc::default(), Arc::default());
        let resource = ScriptedResource {
            name: Arc::from("scripted"),
            log: log.clone(),
            down: Arc::clone(&down),
            down_if_looked_at: Arc::clone(&down_if_looked_at),
        };
        Self {
            log,
            committing: AtomicBool::default(),
            unsettled: AtomicBool::default(),
            down,
            down_if_looked_at,
            resource: Arc::new(resource),
            last_fire: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    fn will(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().extend(answers);
    }

    async fn answer(&self) -> Result<()> {
        let answer = self.answers.lock().pop_front();
        match answer {
            None => Ok(()),
            Some(Answer::Error) => Err(Error::msg("not now")),
            Some(Answer::Fatal) => Err(Error::fatal("the tables are missing")),
            Some(Answer::Hangs) => std::future::pending().await,
        }
    }
}

impl Extension for Scripted {
    fn commit_in_progress(&self, _service: &ServiceInner) -> bool {
        self.committing.load(SeqCst)
    }

    fn has_unsettled(&self, _service: &ServiceInner) -> bool {
        self.unsettled.load(SeqCst)
    }

    fn settle<'a>(&'a self, _service: &'a ServiceInner, error: Option<&'a Error>) -> BoxFuture<'a, Result<()>> {
        let why = error.map_or_else(|| "after a success".to_owned(), |error| format!("{error:#}"));
        self.log.push(format!("settle {why}"));
        Box::pin(async {
            self.answer().await?;
            self.unsettled.store(false, SeqCst);
            Ok(())
        })
    }

    fn last_fire<'a>(
        &'a self,
        _service: &'a ServiceInner,
        _schedule: &'a CronSchedule,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<SystemTime>> {
        self.log.push("last fire");
        Box::pin(async move {
            self.answer().await?;
            Ok(self.last_fire.lock().unwrap_or(now))
        })
    }

    fn record_fire<'a>(
        &'a self,
        _service: &'a ServiceInner,
        _schedule: &'a CronSchedule,
        fire: SystemTime,
        started: Option<SystemTime>,
    ) -> BoxFuture<'a, Result<()>> {
        let after = started.and_then(|started| started.duration_since(fire).ok());
        self.log.push(format!("record a fire whose run began {} s after it", after.unwrap_or_default().as_secs()));
        Box::pin(self.answer())
    }

    fn is_down(&self) -> bool {
        self.down.load(SeqCst)
    }

    fn resource(&self) -> Option<Arc<dyn Resource>> {
        Some(self.resource.clone())
    }
}

/// What the scripted extension's services use.
#[derive(Debug)]
struct ScriptedResource {
    name: Arc<str>,
    log: Log,
    /// There is an outage, and it is known.
    down: Arc<AtomicBool>,
    /// There is an outage that only a check detects.
    down_if_looked_at: Arc<AtomicBool>,
}

impl Resource for ScriptedResource {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn suspects(&self, _service: &ServiceInner, _kind: FailureKind, error: &Error) -> bool {
        error.to_string().contains("does not answer")
    }

    fn confirm(&self, _began: Instant) -> BoxFuture<'_, bool> {
        self.log.push("check for an outage");
        Box::pin(std::future::ready(self.down_if_looked_at.load(SeqCst)))
    }

    fn was_down_since(&self, _at: Instant) -> bool {
        self.down.load(SeqCst)
    }

    fn recovered_since(&self, _at: Instant) -> bool {
        false
    }

    fn outage(&self) -> Option<Outage> {
        None
    }
}

fn options() -> Options {
    Options { max_failures: 2, retry_delay: secs(1), drain_timeout: secs(5), ..Options::default() }
}

// ── a commit in flight ───────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn a_commit_in_flight_delays_the_end_of_a_run() {
    for by_stop in [false, true] {
        let extension = Arc::new(Scripted::default());
        let committing = extension.clone();
        let script = Script::new().update(move |_| {
            committing.committing.store(true, SeqCst);
            let committing = committing.clone();
            tokio::spawn(async move {
                tokio::time::sleep(secs(8)).await;
                committing.committing.store(false, SeqCst);
            });
            std::future::pending()
        });
        let timeout = (!by_stop).then(|| secs(5));
        let mut service = script.start_with(Options { timeout, max_failures: 0, ..options() }, extension.clone());
        service.until(|state| state.status.in_run()).await;
        let begun = Instant::now();
        if by_stop {
            service.stop();
        }
        assert_eq!(service.ended().await, if by_stop { Exit::Stopped } else { Exit::Failed });
        let elapsed = begun.elapsed();
        assert!(elapsed >= secs(8) && elapsed < secs(8) + ms(20), "cancelled after {elapsed:?}");
        service.log.assert_one_cleanup_each();
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_while_its_commit_delays_the_cancel_has_not_been_cancelled() {
    let extension = Arc::new(Scripted::default());
    extension.committing.store(true, SeqCst);
    let script = Script::new().update(async |_| {
        tokio::time::sleep(secs(7)).await;
        Ok(Outcome::processed(1))
    });
    let mut service = script.start_with(Options { timeout: Some(secs(5)), ..options() }, extension);
    service.until(|state| state.status.stats.processed == 1).await;
    assert_eq!(service.inner.lock().status.stats.errors, 0);
    service.stop();
    service.ended().await;
}

// ── rows that a run left open ────────────────────────────────────────────────────────────────────────────────────────

/// A service whose runs leave rows open. The service and the extension use one log.
fn leaves_open(update: impl Fn(u64) -> Result<Outcome> + Send + Sync + 'static) -> (Script, Arc<Scripted>) {
    let script = Script::new();
    let extension = Arc::new(Scripted::new(script.log.clone()));
    let open = extension.clone();
    let script = script.update(move |cx| {
        open.unsettled.store(true, SeqCst);
        let result = update(cx.run);
        async { result }
    });
    (script, extension)
}

#[tokio::test(start_paused = true)]
async fn rows_that_a_run_left_open_are_settled_before_the_next_run_begins() {
    let (script, extension) = leaves_open(|run| if run == 2 { fails() } else { Ok(Outcome::idle()) });
    let mut service = script.start_with(options(), extension);
    service.until(|state| state.status.stats.runs == 3).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    let expected = ["built 1", "run 1", "settle after a success", "run 2", "settle it failed", "failure 1", "run 3"];
    assert_eq!(service.log.lines()[..expected.len()], expected);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_stop_aborts_is_settled_before_the_cleanup() {
    let (script, extension) = leaves_open(|_| Ok(Outcome::idle()));
    let open = extension.clone();
    let script = script.update(move |_| {
        open.unsettled.store(true, SeqCst);
        std::future::pending()
    });
    let mut service = script.start_with(options(), extension);
    service.until(|state| state.status.in_run()).await;
    service.stop();
    assert_eq!(service.ended().await, Exit::Stopped);
    let settled = "settle the run did not end in time for the stop and was aborted after 5s";
    assert_eq!(service.log.lines(), ["built 1", "run 1", settled, "cleanup 1", "dropped 1"]);
}

#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_settled_do_not_end_the_service() {
    for answer in [Answer::Error, Answer::Hangs] {
        let (script, extension) = leaves_open(|_| Ok(Outcome::idle()));
        extension.will([answer]);
        let mut service = script.start_with(options(), extension);
        service.until(|state| state.status.stats.runs == 2).await;
        assert_eq!(service.inner.lock().status.stats.errors, 0);
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        service.log.assert_one_cleanup_each();
    }
}

// ── outages ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn failures_during_an_outage_do_not_exhaust_max_failures() {
    let extension = Arc::new(Scripted::default());
    extension.down.store(true, SeqCst);
    let back = extension.clone();
    let script = Script::new().update(move |_| {
        let down = back.down.load(SeqCst);
        async move { if down { Err(Error::msg("it does not answer")) } else { Ok(Outcome::idle()) } }
    });
    let service = script.start_with(Options { retry_delay: secs(10), ..options() }, extension.clone());
    service.until(|state| state.status.stats.errors == 6).await;
    assert_eq!(service.state(), ServiceState::BackingOff);
    assert_eq!(service.inner.lock().status.failures, 2, "the count stays at `max_failures`");
    // The end of the outage ends the wait, and sets the count to 0.
    extension.down.store(false, SeqCst);
    let now = Instant::now();
    service.inner.end_outage("scripted");
    service.until(|state| state.status.stats.last_success.is_some()).await;
    assert_eq!(now.elapsed(), Duration::ZERO);
    assert_eq!(service.inner.lock().status.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn the_check_for_an_outage_happens_only_if_the_failure_would_end_the_service() {
    let script = Script::new().update(async |_| Err(Error::msg("it does not answer")));
    let extension = Arc::new(Scripted::new(script.log.clone()));
    let mut service = script.start_with(options(), extension.clone());
    service.until(|state| state.status.failures == 2).await;
    extension.down_if_looked_at.store(true, SeqCst);
    service.until(|state| state.status.stats.errors == 4).await;
    extension.down_if_looked_at.store(false, SeqCst);
    assert_eq!(service.ended().await, Exit::Failed, "without an outage the failures count");
    let lines: Vec<String> = service
        .log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("failure") || line.starts_with("check"))
        .collect();
    let check = "check for an outage";
    assert_eq!(lines, ["failure 1", "failure 2", check, "failure 2", check, "failure 2", check, "failure 3"]);
}

#[tokio::test(start_paused = true)]
async fn other_failures_count_during_an_outage() {
    let extension = Arc::new(Scripted::default());
    extension.down.store(true, SeqCst);
    let mut service = Script::new().update(async |_| fails()).start_with(options(), extension);
    assert_eq!(service.ended().await, Exit::Failed);
    assert_eq!(service.inner.lock().status.stats.errors, 3);
}

// ── stored fires ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[cfg(feature = "cron")]
mod fires {
    use super::*;
    use crate::runtime::clock::{Clock, TimeSource};
    use crate::schedule::CatchUp;

    /// A wall clock that moves with tokio's clock.
    #[derive(Debug)]
    struct TestClock(Instant);

    impl TimeSource for TestClock {
        fn now(&self) -> SystemTime {
            start() + self.0.elapsed()
        }
    }

    /// The wall-clock time at which tests start.
    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + secs(1_767_225_600)
    }

    fn cron(expression: &str, catch_up: CatchUp) -> Schedule {
        let (expression, timezone) = (expression.to_owned(), "UTC".to_owned());
        Schedule::Cron(CronSchedule { expression, timezone, catch_up })
    }

    fn with(script: Script, extension: Arc<dyn Extension>, options: Options) -> Service {
        let shared = Shared { clock: Clock::new(TestClock(Instant::now())), ..Shared::default() };
        let (service, supervisor) = script.begin(options, shared, extension);
        service.spawn(supervisor)
    }

    /// Every minute; missed fires are made up.
    fn every_minute(script: Script, extension: Arc<Scripted>) -> Service {
        with(script, extension, Options { schedule: cron("* * * * *", CatchUp::Latest), ..options() })
    }

    fn change(service: &Service, options: Options) {
        service.inner.update(|state| {
            state.requests.options = Arc::new(options);
            state.wake();
        });
    }

    fn runs(service: &Service) -> u64 {
        service.inner.lock().status.stats.runs
    }

    fn in_one_log(script: &Script) -> Arc<Scripted> {
        Arc::new(Scripted::new(script.log.clone()))
    }

    const RECORDED: &str = "record a fire whose run began 0 s after it";

    #[tokio::test(start_paused = true)]
    async fn the_last_fire_is_read_before_the_first_instance_is_built_and_fires_are_recorded_after_their_runs() {
        let script = Script::new();
        let extension = in_one_log(&script);
        let mut service = every_minute(script, extension);
        tokio::time::sleep(secs(130)).await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        let expected = ["last fire", "built 1", "run 1", RECORDED, "run 2", RECORDED, "cleanup 1", "dropped 1"];
        assert_eq!(service.log.lines(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_fire_of_a_failure_that_is_ignored_is_recorded() {
        let script = Script::new().update(async |_| fails()).on_failure(|_| Recovery::Ignore);
        let extension = in_one_log(&script);
        let service = every_minute(script, extension);
        tokio::time::sleep(secs(130)).await;
        assert_eq!((service.log.count("run 2"), service.log.count(RECORDED)), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_not_ready_before_its_last_fire_has_been_read() {
        let script = Script::new();
        let extension = in_one_log(&script);
        // Tables that are missing may be created later.
        extension.will([Answer::Fatal]);
        let mut service = every_minute(script, extension);
        service.started().await;
        assert!(!service.inner.lock().status.is_ready());
        assert_eq!(service.state(), ServiceState::BackingOff);
        service.until(|state| state.status.is_ready()).await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert_eq!(service.log.lines(), ["last fire", "last fire", "built 1", "cleanup 1", "dropped 1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait_for_the_last_fire() {
        let script = Script::new();
        let extension = in_one_log(&script);
        extension.will([Answer::Hangs]);
        let mut service = every_minute(script, extension);
        tokio::time::sleep(secs(1)).await;
        let now = Instant::now();
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert_eq!(now.elapsed(), Duration::ZERO);
        assert_eq!(service.log.lines(), ["last fire"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fire_whose_run_failed_is_recorded_after_the_retry_that_succeeds() {
        let script = Script::new().update(async |cx| if cx.run == 1 { fails() } else { Ok(Outcome::idle()) });
        let extension = in_one_log(&script);
        let mut service = every_minute(script, extension);
        tokio::time::sleep(secs(70)).await;
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        let recorded = "record a fire whose run began 1 s after it";
        let expected = ["last fire", "built 1", "run 1", "failure 1", "run 2", recorded, "cleanup 1", "dropped 1"];
        assert_eq!(service.log.lines(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fire_that_cannot_be_recorded_during_an_outage_is_recorded_later_and_tried_at_the_end() {
        let script = Script::new();
        let extension = in_one_log(&script);
        let mut service = every_minute(script, extension.clone());
        service.until(|state| state.status.is_ready()).await;
        extension.down.store(true, SeqCst);
        tokio::time::sleep(secs(70)).await;
        assert_eq!(service.log.count("run 1"), 1);
        assert_eq!(service.log.count(RECORDED), 0, "there is an outage");
        extension.down.store(false, SeqCst);
        tokio::time::sleep(secs(60)).await;
        assert!(service.log.lines().iter().any(|line| line.starts_with("record")));
        extension.down.store(true, SeqCst);
        tokio::time::sleep(secs(60)).await;
        let before = service.log.count(RECORDED);
        service.stop();
        assert_eq!(service.ended().await, Exit::Stopped);
        assert_eq!(service.log.count(RECORDED), before + 1, "at the end it is tried anyway");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fire_for_which_the_first_instance_is_built_is_run_once() {
        let begun = Instant::now();
        let script = Script::new().configure(move |_| async move {
            if begun.elapsed() < secs(30) { Err(Error::msg("no disk")) } else { Ok(()) }
        });
        let extension = in_one_log(&script);
        *extension.last_fire.lock() = Some(start());
        let schedule = cron("* * * * *", CatchUp::Latest);
        let service = with(script, extension, Options { schedule, max_failures: 0, ..Options::default() });
        tokio::time::sleep(secs(119)).await;
        assert_eq!(runs(&service), 1);
        tokio::time::sleep(secs(60)).await;
        assert_eq!(runs(&service), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn missed_fires_are_no_longer_made_up_when_that_is_switched_off_or_the_schedule_changes() {
        let others = [
            cron("* * * * *", CatchUp::None),
            cron("*/2 * * * *", CatchUp::None),
            cron("*/2 * * * *", CatchUp::All),
            Schedule::Interval(secs(120)),
        ];
        for other in others {
            let script = Script::new().update(async |_| {
                tokio::time::sleep(secs(10)).await;
                Ok(Outcome::idle())
            });
            let extension = in_one_log(&script);
            *extension.last_fire.lock() = Some(start() - secs(3_600));
            let schedule = cron("* * * * *", CatchUp::All);
            let service = with(script, extension, Options { schedule, ..Options::default() });
            tokio::time::sleep(secs(25)).await;
            assert_eq!(runs(&service), 3);
            change(&service, Options { schedule: other.clone(), ..Options::default() });
            tokio::time::sleep(secs(30)).await;
            assert_eq!(runs(&service), 3, "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_that_changes_while_an_instance_is_built_after_a_run_was_given_up_takes_effect() {
        let begun = Instant::now();
        let script = Script::new().configure(move |_| async move {
            if begun.elapsed() < secs(5) {
                return Err(Error::msg("no disk"));
            }
            tokio::time::sleep(secs(90)).await;
            Ok(())
        });
        let schedule = cron("0 * * * *", CatchUp::None);
        let service = with(script, Arc::new(NoExtension), Options { schedule, max_failures: 0, ..Options::default() });
        tokio::time::sleep(secs(10)).await;
        service.inner.request_wake();
        tokio::time::sleep(secs(10)).await;
        change(&service, Options { schedule: Schedule::Interval(secs(3_600)), ..Options::default() });
        tokio::time::sleep(secs(180)).await;
        assert_eq!(runs(&service), 1);
        tokio::time::sleep(secs(3_600)).await;
        assert_eq!(runs(&service), 2);
    }
}
